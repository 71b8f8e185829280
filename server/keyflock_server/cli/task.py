"""``keyflock task``: creates, shows, changes, pauses, resumes, cancels and archives tasks."""

import codecs
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Archived, Limit, Reason
from keyflock_server.protocol.operator.call import JSON, TOML, AnyCall
from keyflock_server.protocol.operator.forecasts import FORECAST_TASK
from keyflock_server.protocol.operator.tasks import (
    ARCHIVE_TASK,
    CANCEL_TASK,
    CHANGE_TASK,
    CREATE_TASK,
    PAUSE_TASK,
    RESUME_TASK,
    TASK,
    TASK_HISTORY,
    TASKS,
    UNARCHIVE_TASK,
)

_STANDARD_INPUT: Final = Path("-")
HISTORY_COLUMNS: Final = ("at", "what", "operator", "round", "reports", "version", "detail")

COLUMNS: Final = (
    *(
        "name",
        "population",
        "state",
        "rounds_committed",
        "rounds_abandoned",
        "max_rounds",
        "held_round",
        "is_unsafe_flush",
    ),
)

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="The task's name; name~1 for the first of several of a name.")
]
TaskFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="The task, in TOML (server/README.md has one) or as a JSON object; - for standard input.",
    ),
]

app = typer.Typer(no_args_is_help=True, help="What phones train, with its limits.")


@operator_command(app, "create")
def create(
    session: OperatorSession,
    file: TaskFile,
    reason: Reason,
) -> None:
    """Start the task that FILE describes."""
    body, media_type = _checked(file)
    answer = session.call(CREATE_TASK, body=body, media_type=media_type, query={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    population: Annotated[str | None, typer.Option("--population", help="Only this population's.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only those in this state, for example paused.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only those of this kind: train or evaluate.")
    ] = None,
    archived: Archived = False,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List the tasks, oldest first."""
    query = {
        "population": population,
        "state": state,
        "kind": kind,
        "archived": "true" if archived else None,
    }
    session.print_list(COLUMNS, TASKS, query=query, limit=limit)


@operator_command(app, "show", is_watchable=True)
def show(
    session: OperatorSession,
    name: TaskName,
) -> None:
    """Show one task."""
    session.print_fields(session.call(TASK, {"task": name}))


@operator_command(app, "change")
def change(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
    goal: Annotated[int | None, typer.Option("--goal", min=1, help="Reports that close a round.")] = None,
    minimum: Annotated[
        int | None, typer.Option("--minimum", min=1, help="Reports that suffice at the deadline.")
    ] = None,
    over_selection: Annotated[
        float | None, typer.Option("--over-selection", min=0.0, help="Share of devices beyond the goal.")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline", min=0.0, help="Seconds from a round's opening to its end.")
    ] = None,
) -> None:
    """Change a task's next rounds; the open one keeps what it opened with."""
    given = {"goal": goal, "minimum": minimum, "over_selection": over_selection, "deadline_s": deadline_s}
    order = {field: value for field, value in given.items() if value is not None}
    if not order:
        message = "Nothing to change: give --goal, --minimum, --over-selection or --deadline."
        raise CommandError(message, ExitCode.USAGE)
    _change(session, CHANGE_TASK, name, {"reason": reason, **order})


@operator_command(app, "pause")
def pause(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
    until: Annotated[
        str,
        typer.Option("--until", help="When it resumes by itself, as 2026-12-01T08:00:00Z.", metavar="TIME"),
    ] = "",
) -> None:
    """Give out no more work; reports under way are still taken."""
    _change(session, PAUSE_TASK, name, {"reason": reason} | ({"until": until} if until else {}))


@operator_command(app, "resume")
def resume(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
) -> None:
    """Give out work again."""
    _change(session, RESUME_TASK, name, {"reason": reason})


@operator_command(app, "cancel")
def cancel(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
) -> None:
    """End a task for good; its open round is abandoned."""
    _change(session, CANCEL_TASK, name, {"reason": reason})


@operator_command(app, "archive")
def archive(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
) -> None:
    """Take a task that is over out of the list; nothing is deleted."""
    _change(session, ARCHIVE_TASK, name, {"reason": reason})


@operator_command(app, "unarchive")
def unarchive(
    session: OperatorSession,
    name: TaskName,
    reason: Reason,
) -> None:
    """Put an archived task back into the list."""
    _change(session, UNARCHIVE_TASK, name, {"reason": reason})


@operator_command(app, "history")
def history(
    session: OperatorSession,
    name: TaskName,
) -> None:
    """Show who changed a task and why, and how its rounds ended, newest first."""
    answer = session.call(TASK_HISTORY, {"task": name}, query={"limit": str(MAX_LIMIT)})
    session.print_rows(HISTORY_COLUMNS, answer["items"], answer)


@operator_command(app, "dry-run")
def dry_run(
    session: OperatorSession,
    file: TaskFile,
) -> None:
    """Say whether a task would be accepted, whom it would match and what it would cost."""
    body, media_type = _checked(file)
    answer = session.call(FORECAST_TASK, body=body, media_type=media_type)
    session.print_fields(answer)
    if not answer["is_accepted"]:
        raise CommandError(
            f"{_source(file)} would be refused", ExitCode.REFUSED, [*answer["problems"], *answer["conflicts"]]
        )


def _change(session: OperatorSession, call: AnyCall, name: str, order: Mapping[str, object]) -> None:
    answer = session.call(call, {"task": name}, order=order)
    session.print_rows(COLUMNS, [answer], answer)


def _checked(file: Path) -> tuple[bytes, str]:
    """Return a task's bytes and media type after parsing it, so that mistakes are found before it is sent."""
    from keyflock_server.rounds.task_validation import TaskError, parse_task, parse_task_json

    name = _source(file)
    is_json = False
    try:
        body = sys.stdin.buffer.read() if file == _STANDARD_INPUT else file.read_bytes()
        body = body.removeprefix(codecs.BOM_UTF8)
        is_json = body.lstrip().startswith(b"{")  # as no TOML does
        parse_task_json(body) if is_json else parse_task(body.decode())
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8 text.", ExitCode.INPUT) from None
    except TaskError as error:
        if len(error.problems) > 1:
            message = f"{name}: {len(error.problems)} problems"
            raise CommandError(message, ExitCode.INPUT, error.problems) from None
        raise CommandError(f"{name}: {error}", ExitCode.INPUT) from None
    return body, JSON if is_json else TOML


def _source(file: Path) -> str:
    return "standard input" if file == _STANDARD_INPUT else str(file)
