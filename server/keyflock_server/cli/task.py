"""``keyflock task``: creates, shows, changes, pauses, resumes, cancels and archives tasks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.options import LONGEST_PAGE, DataDir, Json, Reason, TokenFile, Url, connect
from keyflock_server.protocol.operator.call import AnyCall
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

app = typer.Typer(no_args_is_help=True, help="What phones train, with its limits.")


@app.command("create")
def create(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The task (server/README.md has one).")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Start the task that FILE.toml describes."""
    body = _checked(file)
    answer = connect(url, token_file, data_dir).call(CREATE_TASK, body=body, query={"reason": reason})
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("list")
def show_all(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List the tasks."""
    answer = connect(url, token_file, data_dir).call(TASKS, query=LONGEST_PAGE)
    output.print_page(COLUMNS, answer, as_json=as_json)


@app.command("show")
def show(
    name: TaskName,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one task."""
    _call(TASK, name, url, token_file, data_dir, as_json=as_json)


@app.command("change")
def change(
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
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change a task's next rounds; the open one keeps what it opened with."""
    given = {"goal": goal, "minimum": minimum, "over_selection": over_selection, "deadline_s": deadline_s}
    order = {field: value for field, value in given.items() if value is not None}
    if not order:
        message = "Nothing to change: give --goal, --minimum, --over-selection or --deadline."
        raise CommandError(message, ExitCode.USAGE)
    _call(CHANGE_TASK, name, url, token_file, data_dir, reason, order, as_json=as_json)


@app.command("pause")
def pause(
    name: TaskName,
    reason: Reason,
    until: Annotated[
        str,
        typer.Option("--until", help="When it resumes by itself, as 2026-12-01T08:00:00Z.", metavar="TIME"),
    ] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give out no more work; reports under way are still taken."""
    order = {"until": until} if until else {}
    _call(PAUSE_TASK, name, url, token_file, data_dir, reason, order, as_json=as_json)


@app.command("resume")
def resume(
    name: TaskName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give out work again."""
    _call(RESUME_TASK, name, url, token_file, data_dir, reason, as_json=as_json)


@app.command("cancel")
def cancel(
    name: TaskName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a task for good; its open round is abandoned."""
    _call(CANCEL_TASK, name, url, token_file, data_dir, reason, as_json=as_json)


@app.command("archive")
def archive(
    name: TaskName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take a task that is over out of the list; nothing is deleted."""
    _call(ARCHIVE_TASK, name, url, token_file, data_dir, reason, as_json=as_json)


@app.command("unarchive")
def unarchive(
    name: TaskName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put an archived task back into the list."""
    _call(UNARCHIVE_TASK, name, url, token_file, data_dir, reason, as_json=as_json)


@app.command("history")
def history(
    name: TaskName,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show who changed a task and why, and how its rounds ended, newest first."""
    answer = connect(url, token_file, data_dir).call(TASK_HISTORY, {"task": name}, query=LONGEST_PAGE)
    output.print_json(answer) if as_json else output.print_table(HISTORY_COLUMNS, answer["items"])


@app.command("dry-run")
def dry_run(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The task.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say whether a task would be accepted, whom it would match and what it would cost."""
    answer = connect(url, token_file, data_dir).call(FORECAST_TASK, body=_checked(file))
    output.print_json(answer) if as_json else output.print_fields(answer)
    if not answer["is_accepted"]:
        raise CommandError(
            f"{file} would be refused", ExitCode.REFUSED, [*answer["problems"], *answer["conflicts"]]
        )


def _call(
    call: AnyCall,
    name: str,
    url: str | None,
    token_file: Path | None,
    data_dir: Path | None,
    reason: str | None = None,
    order: Mapping[str, object] | None = None,
    *,
    as_json: bool,
) -> None:
    body = None if reason is None else json.dumps({"reason": reason, **(order or {})}).encode()
    answer = connect(url, token_file, data_dir).call(call, {"task": name}, body)
    if as_json:
        output.print_json(answer)
    elif call is TASK:
        output.print_fields(answer)
    else:
        output.print_table(COLUMNS, [answer])


def _checked(file: Path) -> bytes:
    """Return the file's bytes after parsing it as a task, so that mistakes are found before it is sent."""
    from keyflock_server.rounds.task_validation import TaskError, parse_task

    try:
        body = file.read_bytes()
        parse_task(body.decode("utf-8-sig"))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8 text.", ExitCode.INPUT) from None
    except TaskError as error:
        if len(error.problems) > 1:
            message = f"{file}: {len(error.problems)} problems"
            raise CommandError(message, ExitCode.INPUT, error.problems) from None
        raise CommandError(f"{file}: {error}", ExitCode.INPUT) from None
    return body
