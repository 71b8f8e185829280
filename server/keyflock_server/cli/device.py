"""``keyflock device``: lists a population's devices, and quarantines, releases or revokes them."""

from typing import Annotated, Final

import typer

from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Limit, Reason
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


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="For example en-US.")],
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only those that are kept out now.")
    ] = False,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List a population's devices, ordered by id."""
    query = {"quarantined": "true" if quarantined else None}
    session.print_list(COLUMNS, DEVICES, {"population": population}, query=query, limit=limit)


@operator_command(app, "show", is_watchable=True)
def show(
    session: OperatorSession,
    device: DeviceId,
) -> None:
    """Show one device and what is held against it."""
    answer = session.call(DEVICE, {"device": device})
    session.print_fields(answer)


@operator_command(app, "quarantine")
def quarantine(
    session: OperatorSession,
    device: DeviceId,
    reason: Reason,
    days: Annotated[float, typer.Option("--days", min=0.0, max=365.0, help="For how long.")] = 365.0,
) -> None:
    """Keep a device out of rounds from now on."""
    answer = session.call(QUARANTINE_DEVICE, {"device": device}, order={"reason": reason, "days": days})
    session.print_fields(answer)


@operator_command(app, "release")
def release(
    session: OperatorSession,
    device: DeviceId,
    reason: Reason,
) -> None:
    """Let a device in again, with nothing held against it."""
    answer = session.call(RELEASE_DEVICE, {"device": device}, order={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "revoke")
def revoke(
    session: OperatorSession,
    device: DeviceId,
    reason: Reason,
) -> None:
    """Make all tokens of a device void, for refreshing too: its phone enrols as a new device."""
    answer = session.call(REVOKE_DEVICE, {"device": device}, order={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "forget")
def forget(
    session: OperatorSession,
    device: DeviceId,
    reason: Reason,
) -> None:
    """Delete all that is stored of a device, as its user could: for a user who asks you to."""
    answer = session.call(FORGET_DEVICE, {"device": device}, order={"reason": reason})
    session.print_fields(answer)
