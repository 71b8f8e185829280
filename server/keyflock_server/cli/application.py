"""The whole command line: its commands, and the exit codes that they end with."""

import sys
from importlib.metadata import version as distribution_version
from typing import Annotated, NoReturn

import typer

from keyflock_server.cli import (
    db,
    device,
    heads,
    output,
    population,
    round,  # noqa: A004 - named by the field's word
    serve,
    task,
)
from keyflock_server.cli.errors import CommandError, ExitCode

app = typer.Typer(
    name="keyflock",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The server that keyboards' phones learn through, and an operator's view of it.",
)
app.command("serve")(serve.serve)
app.add_typer(population.app, name="population")
app.add_typer(task.app, name="task")
app.add_typer(round.app, name="round")
app.add_typer(heads.app, name="heads")
app.add_typer(device.app, name="device")
app.add_typer(db.app, name="db")


@app.command("version")
def version(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the version of this program."""
    name = distribution_version("keyflock")
    output.print_json({"version": name}) if as_json else typer.echo(name)


def main() -> NoReturn:
    """Run the command of this process, and end the process with its exit code."""
    try:
        code = app(standalone_mode=False)
    except CommandError as error:
        _complain(str(error))
        sys.exit(error.code)
    except typer.TyperException as error:
        _complain(error.format_message())
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


def _complain(message: str) -> None:
    if message:  # it is empty after the help page of a bare command
        sys.stderr.write(f"keyflock: {' '.join(message.split())}\n")
