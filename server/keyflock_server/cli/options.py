"""Options that several commands share: where the server is, and how its answer is printed."""

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from keyflock_server.cli.connection import AdminConnection

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="KEYFLOCK_ADMIN_URL",
        metavar="http://HOST:PORT",
        help="The server's admin address.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File with your token; KEYFLOCK_ADMIN_TOKEN may hold the token itself.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="KEYFLOCK_DATA_DIR",
        help="The server's data folder, when it is on this machine: tells the address and the token.",
        show_default=False,
    ),
]
#: An option of the program, before the command's name: every command that connects needs it.
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="KEYFLOCK_CA_FILE",
        help="PEM file with the authority of the server's certificate.",
        show_default="the system's authorities",
    ),
]
#: The most items that a server gives at once.
MAX_LIMIT: Final = 1_000
Limit = Annotated[int, typer.Option("--limit", min=1, help="The most items that are listed.")]
Archived = Annotated[bool, typer.Option("--archived", help="Only those that are archived.")]
Reason = Annotated[
    str,
    typer.Option(
        "--reason", help="Why, for later readers: it is in the audit log. No user's text.", show_default=False
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")]
Json = Annotated[bool, typer.Option("--json", help="Print the server's answer as one JSON object.")]


#: What the program's option ``--ca-file`` says.
ca_file: Final[ContextVar[Path | None]] = ContextVar("ca_file", default=None)


def connect(url: str | None, token_file: Path | None, data_dir: Path | None) -> "AdminConnection":
    """Return a connection to the server that the shared options and the environment name."""
    from keyflock_server.cli.connection import AdminConnection

    token = None if token_file is not None else os.environ.get("KEYFLOCK_ADMIN_TOKEN")
    return AdminConnection.find(
        url=url, token=token, token_file=token_file, data_dir=data_dir, ca_file=ca_file.get()
    )
