"""The whole command line: its commands, and the exit codes that they end with.

Each command is a file that imports its needs when it is called, so that ``--help`` does not wait for them.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from keyflock_server.cli import (
    audit,
    backups,
    db,
    device,
    events,
    heads,
    model,
    options,
    output,
    population,
    release,
    round,  # noqa: A004 - named by the field's word
    serve,
    task,
    tokens,
)
from keyflock_server.cli.errors import CommandError, ExitCode

app = typer.Typer(
    name="keyflock",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help stay, and no character needs more than ASCII
    help="The server that keyboards' phones learn through, and an operator's view of it.",
)
app.command("serve")(serve.serve)
app.command("events")(events.events)
app.add_typer(population.app, name="population")
app.add_typer(task.app, name="task")
app.add_typer(round.app, name="round")
app.add_typer(model.app, name="model")
app.add_typer(release.app, name="release")
app.add_typer(heads.app, name="heads")
app.add_typer(device.app, name="device")
app.add_typer(tokens.app, name="token")
app.add_typer(audit.app, name="audit")
app.add_typer(db.app, name="db")
app.add_typer(backups.app, name="backup")
app.command("restore")(backups.restore)


def _version_of_program() -> str:
    from importlib.metadata import version

    return version("keyflock")


def _print_version(*, is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"keyflock {_version_of_program()}")
        raise typer.Exit


@app.callback()
def keyflock(
    context: typer.Context,
    ca_file: options.CaFile = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda is_wanted: _print_version(is_wanted=is_wanted),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """The server that keyboards' phones learn through, and an operator's view of it."""
    from keyflock_server.settings import misspelt_variables

    options.ca_file.set(ca_file)
    # ``serve`` checks that with its other settings, and the version does not depend on it.
    if context.invoked_subcommand not in {"serve", "version"}:
        for name, meant in misspelt_variables(os.environ).items():
            raise CommandError(
                f"{name} is no variable of keyflock; {meant} is. Correct or remove it.", ExitCode.USAGE
            )


@app.command("version")
def version(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the version of this program."""
    name = _version_of_program()
    output.print_json({"version": name}) if as_json else typer.echo(name)


def main() -> NoReturn:
    """Run the command of this process, and end the process with its exit code."""
    output.print_in_any_encoding()
    try:
        code = app(standalone_mode=False)
    except CommandError as error:
        _complain(str(error), error.problems)
        sys.exit(error.code)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # the help page that a bare command shows
            typer.echo(message)
        else:
            _complain(message)
        sys.exit(ExitCode.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone
        sys.exit(ExitCode.OK)
    except OSError as error:
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(ExitCode.FAILED)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _complain(message: str, problems: Sequence[str] = ()) -> None:
    lines = [f"keyflock: {' '.join(message.split())}", *(f"  {' '.join(one.split())}" for one in problems)]
    sys.stderr.write("\n".join(lines) + "\n")
