"""The command line consists of its commands, and of how any of them ends.

Each command is a file that imports its needs when it is called, so that ``--help`` does not wait for JAX.
"""

import sys
from typing import NoReturn

import typer

from keyflock_client_sim.cli import (
    codec,
    compression_cost,
    demo,
    drift,
    evaluate,
    modes,
    personalise,
    pretrain,
    run,
)
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode

app = typer.Typer(
    name="keyflock-sim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Phones that behave like phones, and the models that they start from.",
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("pretrain")(pretrain.pretrain)
app.command("evaluate")(evaluate.evaluate)
app.command("personalise")(personalise.personalise)
app.command("drift")(drift.drift)
app.command("modes")(modes.modes)
app.command("compression")(compression_cost.compression)
app.add_typer(codec.codec, name="codec")


@app.callback()
def keyflock_sim() -> None:
    """Phones that behave like phones, and the models that they start from."""


def main() -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit code."""
    try:
        code = app(standalone_mode=False)
    except SimulatorError as error:
        _print_error(str(error))
        sys.exit(error.code)
    except typer.TyperException as error:
        _print_error(error.format_message())
        sys.exit(SimulatorExitCode.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(SimulatorExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(SimulatorExitCode.OK)
    except OSError as error:
        _print_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(SimulatorExitCode.FAILED)
    sys.exit(code if isinstance(code, int) else SimulatorExitCode.OK)


def _print_error(message: str) -> None:
    if message:  # an empty one was the help page that a bare command shows
        sys.stderr.write(f"keyflock-sim: {' '.join(message.split())}\n")
