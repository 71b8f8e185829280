"""``keyflock device``: lists a population's devices, and quarantines, releases or revokes them."""

import json
from typing import Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.options import LONGEST_PAGE, DataDir, Json, Reason, TokenFile, Url, connect
from keyflock_server.protocol.operator.devices import (
    DEVICE,
    DEVICES,
    FORGET_DEVICE,
    QUARANTINE_DEVICE,
    RELEASE_DEVICE,
    REVOKE_DEVICE,
)

COLUMNS: Final = (
    "id",
    "is_quarantined",
    "quarantined_until",
    "reason",
    "app_build",
    "locale",
    "last_seen_at",
)

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]

app = typer.Typer(no_args_is_help=True, help="Phones, and which of them are kept out.")


@app.command("list")
def show_all(
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="For example en-US.")],
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only those that are kept out now.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List up to 1,000 devices, ordered by id."""
    query = LONGEST_PAGE | ({"quarantined": "true"} if quarantined else {})
    answer = connect(url, token_file, data_dir).call(DEVICES, {"population": population}, query=query)
    output.print_page(COLUMNS, answer, as_json=as_json)


@app.command("show")
def show(
    device: DeviceId,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one device and what is held against it."""
    answer = connect(url, token_file, data_dir).call(DEVICE, {"device": device})
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("quarantine")
def quarantine(
    device: DeviceId,
    reason: Reason,
    days: Annotated[float, typer.Option("--days", min=0.0, max=365.0, help="For how long.")] = 365.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Keep a device out of rounds from now on."""
    body = json.dumps({"reason": reason, "days": days}).encode()
    connection = connect(url, token_file, data_dir)
    answer = connection.call(QUARANTINE_DEVICE, {"device": device}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("release")
def release(
    device: DeviceId,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a device in again, with nothing held against it."""
    body = json.dumps({"reason": reason}).encode()
    answer = connect(url, token_file, data_dir).call(RELEASE_DEVICE, {"device": device}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("revoke")
def revoke(
    device: DeviceId,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make all tokens of a device void, for refreshing too: its phone enrols as a new device."""
    body = json.dumps({"reason": reason}).encode()
    answer = connect(url, token_file, data_dir).call(REVOKE_DEVICE, {"device": device}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("forget")
def forget(
    device: DeviceId,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete all that is stored of a device, as its user could: for a user who asks you to."""
    body = json.dumps({"reason": reason}).encode()
    answer = connect(url, token_file, data_dir).call(FORGET_DEVICE, {"device": device}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)
