"""The command line consists of its commands.

Each command is a file that imports its needs when it is called, so that ``--help`` does not wait for JAX.
"""

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
from keyflock_client_sim.cli.ending import run_command
from keyflock_client_sim.cli.version_option import VersionOption

app = typer.Typer(
    name="keyflock-sim",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help stay, and no character needs more than ASCII
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
def keyflock_sim(_version: VersionOption = False) -> None:
    """Phones that behave like phones, and the models that they start from."""


def main() -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit code."""
    run_command(app, "keyflock-sim")
