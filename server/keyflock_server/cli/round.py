"""``keyflock round``: shows the rounds of a task, ends open ones, and accepts or discards held ones."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Limit, Reason
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.rounds import (
    ABANDON_ROUND,
    ACCEPT_ROUND,
    CLOSE_ROUND,
    DISCARD_ROUND,
    ROUND,
    ROUND_PROGRESS,
    ROUNDS,
)

COLUMNS: Final = (
    "id",
    "phase",
    "assigned",
    "counted",
    "goal",
    "model_version",
    "result_version",
    "opened_at",
    "detail",
    "is_unsafe_flush",
)

RoundName = Annotated[str, typer.Argument(metavar="ROUND", help="The round's id.")]

app = typer.Typer(no_args_is_help=True, help="The rounds of a task.")


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")],
    phase: Annotated[
        str | None, typer.Option("--phase", help="Only those in this phase, for example collecting.")
    ] = None,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List a task's rounds, newest first."""
    session.print_list(COLUMNS, ROUNDS, query={"task": task, "phase": phase}, limit=limit)


@operator_command(app, "show", is_watchable=True)
def show(
    session: OperatorSession,
    round_id: RoundName,
) -> None:
    """Show one round."""
    answer = session.call(ROUND, {"round": round_id})
    session.print_fields(answer)


@operator_command(app, "progress", is_watchable=True)
def show_progress(
    session: OperatorSession,
    round_id: RoundName,
) -> None:
    """Show how far a round's phones came, when reports came, and why phones were refused or failed."""
    session.print_fields(session.call(ROUND_PROGRESS, {"round": round_id}))


@operator_command(app, "close")
def close(
    session: OperatorSession,
    round_id: RoundName,
    reason: Reason,
) -> None:
    """Close a collecting round now, with the reports that it has, if they are its minimum."""
    _decide(session, CLOSE_ROUND, round_id, {"reason": reason})


@operator_command(app, "abandon")
def abandon(
    session: OperatorSession,
    round_id: RoundName,
    reason: Reason,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop its reports, although its task would carry them.")
    ] = False,
) -> None:
    """End a collecting round now, without a result; its reports are carried or dropped, as its task says."""
    _decide(session, ABANDON_ROUND, round_id, {"reason": reason, "drop": drop})


@operator_command(app, "accept")
def accept(
    session: OperatorSession,
    round_id: RoundName,
    reason: Reason,
) -> None:
    """Publish the version of a round that is held, although it did not pass the checks."""
    _decide(session, ACCEPT_ROUND, round_id, {"reason": reason})


@operator_command(app, "discard")
def discard(
    session: OperatorSession,
    round_id: RoundName,
    reason: Reason,
) -> None:
    """Give up what the phones of a round that is held have brought; its task goes on with the next round."""
    _decide(session, DISCARD_ROUND, round_id, {"reason": reason})


def _decide(session: OperatorSession, call: AnyCall, round_id: str, order: Mapping[str, object]) -> None:
    session.print_fields(session.call(call, {"round": round_id}, order=order))
