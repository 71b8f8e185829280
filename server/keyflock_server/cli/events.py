"""``keyflock events``: prints what happens as it happens, a line an event."""

import json
import sys
import time
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from keyflock_server.cli.options import DataDir, Json, TokenFile, Url, connect
from keyflock_server.protocol.operator.events import EVENTS
from keyflock_server.protocol.operator_client import operator_request

#: Time between two connections.
_RETRY_S: Final = 2.0
_ID: Final = b"id: "
_DATA: Final = b"data: "


def events(
    population: Annotated[str, typer.Option("--population", help="Only events of this population.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Connect again when the stream ends.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print what happens from now on, until the stream ends or Ctrl-C."""
    connection, last_id = connect(url, token_file, data_dir), ""
    query = {"population": population} if population else None
    while True:
        request = operator_request(connection.token, EVENTS, query=query)
        if last_id:
            request = replace(request, headers={**request.headers, "last-event-id": last_id})
        for line in connection.lines(request):
            if line.startswith(_ID):
                last_id = line.removeprefix(_ID).decode().strip()
            elif line.startswith(_DATA):
                text = line.removeprefix(_DATA).decode().strip()
                sys.stdout.write((text if as_json else _told(json.loads(text))) + "\n")
                sys.stdout.flush()
        if not follow:
            return
        time.sleep(_RETRY_S)


def _told(event: dict[str, Any]) -> str:
    rest = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"at", "kind"})
    return f"{event['at']} {event['kind']} {rest}".rstrip()
