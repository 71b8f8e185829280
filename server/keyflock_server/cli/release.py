"""``keyflock release``: which version keyboards serve, and every step from one to the next."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Limit, Reason
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.releases import (
    HOLD_RELEASE,
    PROMOTE_RELEASE,
    RELEASE,
    RELEASE_GATE,
    RELEASE_HISTORY,
    RELEASE_POLICY,
    RELEASES,
    ROLL_BACK_RELEASE,
    SET_RELEASE_POLICY,
    START_RELEASE,
)

COLUMNS: Final = ("population", "phase", "version", "candidate", "percent", "newest", "since", "operator")
HISTORY_COLUMNS: Final = (
    "sequence",
    "at",
    "action",
    "version",
    "candidate",
    "percent",
    "operator",
    "reason",
)

Population = Annotated[str, typer.Argument(metavar="POPULATION", help="For example en-US.")]
Force = Annotated[bool, typer.Option("--force", help="Against what the gate says; takes the role admin.")]

app = typer.Typer(no_args_is_help=True, help="The versions that keyboards serve.")


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List what the keyboards of all populations are served."""
    session.print_list(COLUMNS, RELEASES, limit=limit)


@operator_command(app, "show", is_watchable=True)
def show(
    session: OperatorSession,
    population: Population,
    device: Annotated[
        str | None, typer.Option("--device", help="A device's id, to see what it is served.")
    ] = None,
) -> None:
    """Show what a population's keyboards are served now, since when and why."""
    query = {} if device is None else {"device": device}
    answer = session.call(RELEASE, {"population": population}, query=query)
    session.print_fields(answer)


@operator_command(app, "history")
def history(
    session: OperatorSession,
    population: Population,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List the steps of a population's release, newest first."""
    session.print_list(HISTORY_COLUMNS, RELEASE_HISTORY, {"population": population}, limit=limit)


@operator_command(app, "start")
def start(
    session: OperatorSession,
    population: Population,
    reason: Reason,
    candidate: Annotated[
        int | None, typer.Option("--candidate", min=0, help="Left out: the present one, or the newest.")
    ] = None,
    percent: Annotated[
        int | None, typer.Option("--percent", min=0, max=99, help="Left out: the policy's first stage.")
    ] = None,
    force: Force = False,
) -> None:
    """Serve a candidate to a stage of the devices, or to a wider one; a held candidate goes on by it."""
    order = {"candidate": candidate, "percent": percent, "is_forced": force, "reason": reason}
    _take(session, START_RELEASE, population, order)


@operator_command(app, "promote")
def promote(
    session: OperatorSession,
    population: Population,
    reason: Reason,
    version: Annotated[int | None, typer.Option("--version", min=0, help="Left out: the candidate.")] = None,
    force: Force = False,
) -> None:
    """Serve a version to everybody; unless forced, only one that passes the gate."""
    order = {"version": version, "is_forced": force, "reason": reason}
    _take(session, PROMOTE_RELEASE, population, order)


@operator_command(app, "hold")
def hold(
    session: OperatorSession,
    population: Population,
    reason: Reason,
) -> None:
    """Stop the candidate at its stage until somebody starts, promotes or rolls back."""
    _take(session, HOLD_RELEASE, population, {"reason": reason})


@operator_command(app, "rollback")
def roll_back(
    session: OperatorSession,
    population: Population,
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option("--to", min=0, help="A version that was served before; left out: the one before."),
    ] = None,
) -> None:
    """Take the candidate back or, without one, serve the version before; phones do at their next check."""
    _take(session, ROLL_BACK_RELEASE, population, {"to": to, "reason": reason})


@operator_command(app, "gate", is_watchable=True)
def gate(
    session: OperatorSession,
    population: Population,
    candidate: Annotated[
        int | None, typer.Option("--candidate", min=0, help="Left out: the present one, or the newest.")
    ] = None,
) -> None:
    """Judge a version by what phones have evaluated so far; nothing is changed."""
    query = {} if candidate is None else {"candidate": str(candidate)}
    answer = session.call(RELEASE_GATE, {"population": population}, query=query)
    session.print_fields(answer)


@operator_command(app, "policy")
def policy(
    session: OperatorSession,
    population: Population,
    file: Annotated[
        Path | None, typer.Option("--set", help="A JSON file with another policy; takes the role admin.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="The reason, with --set.")] = "",
) -> None:
    """Show who promotes versions, in which stages and by which gate; or set it."""
    if file is None:
        answer = session.call(RELEASE_POLICY, {"population": population})
    else:
        order = {"policy": _read_policy(file), "reason": reason}
        answer = session.call(SET_RELEASE_POLICY, {"population": population}, order=order)
    session.print_fields(answer)


def _take(session: OperatorSession, call: AnyCall, population: str, order: Mapping[str, object]) -> None:
    given = {name: value for name, value in order.items() if value is not None}
    session.print_fields(session.call(call, {"population": population}, order=given))


def _read_policy(file: Path) -> Any:  # noqa: ANN401 - the server checks it
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    except ValueError as error:
        raise CommandError(f"{file} is no JSON: {error}.", ExitCode.INPUT) from None
