"""How a command ends: with one line on standard error, and an exit code that a script can tell apart."""

import sys
from typing import NoReturn

import typer

from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode
from keyflock_client_sim.cli.signals import treat_signals_as_interrupt
from keyflock_client_sim.console import print_in_any_encoding


def run_command(app: typer.Typer, name: str) -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit code.

    Args:
        app: The commands.
        name: What the process is called in its errors.
    """
    print_in_any_encoding()
    try:
        treat_signals_as_interrupt()
        code = app(standalone_mode=False)
    except SimulatorError as error:
        _print_error(name, str(error))
        sys.exit(error.code)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # the help page that a bare command shows
            typer.echo(message)
        else:
            _print_error(name, message)
        sys.exit(SimulatorExitCode.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(SimulatorExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(SimulatorExitCode.OK)
    except OSError as error:
        _print_error(name, f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(SimulatorExitCode.FAILED)
    sys.exit(code if isinstance(code, int) else SimulatorExitCode.OK)


def _print_error(name: str, message: str) -> None:
    sys.stderr.write(f"{name}: {' '.join(message.split())}\n")
