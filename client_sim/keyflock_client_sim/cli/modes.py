"""``keyflock-sim modes`` compares synchronous rounds with asynchronous ones, on any text and fleet."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, PROFILES, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode


def modes(
    *,
    data: Annotated[str, typer.Option(metavar=DATA, help="Users and their messages.")] = "shakespeare",
    pretrain: Annotated[
        str,
        typer.Option(
            metavar="builtin|none|FILE", help="Version 0: a corpus to pre-train on, or a checkpoint."
        ),
    ] = "builtin",
    size: Annotated[str, typer.Option(metavar=SIZES, help="Size of the network.")] = "small",
    devices: Annotated[int, typer.Option(min=8, help="Phones, as far as the text goes.")] = 300,
    profile: Annotated[str, typer.Option(metavar=PROFILES, help="What phones are like.")] = "heavy_tailed",
    concurrency: Annotated[int, typer.Option(min=6, help="Phones that train at once, in both modes.")] = 39,
    buffer: Annotated[int, typer.Option(min=4, help="Async: reports that make a version.")] = 10,
    sync_deadline_s: Annotated[float, typer.Option(min=1.0, help="Sync: when a round ends at last.")] = 300.0,
    async_deadline_s: Annotated[
        float, typer.Option(min=1.0, help="Async: when an assignment expires.")
    ] = 900.0,
    hours: Annotated[float, typer.Option(min=0.01, help="Virtual hours that each fleet lives.")] = 3.0,
    seeds: Annotated[int, typer.Option(min=1, help="Fleets that are compared.")] = 3,
    rates: Annotated[
        str, typer.Option(help="Server learning rates to try for each mode, with commas.")
    ] = "0.005,0.01,0.02",
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Decides the split of the text, the first fleet, and whom servers sample.",
        ),
    ] = 0,
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes (PNG).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """Which mode is as good sooner, and which with fewer reports? Real training, in virtual time.

    A rate for each mode is found on a fleet of its own; then every fleet runs in each mode.
    """
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.experiments.modes.experiment import ModesError, run
    from keyflock_client_sim.experiments.modes.options import ModesOptions
    from keyflock_client_sim.fleet.profiles import ProfileError
    from keyflock_client_sim.training_setup.options import DemoError
    from keyflock_server.protocol.operator_client import OperatorError

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # The server's log would be written between the figures.
    logging.getLogger("keyflock").addHandler(logging.NullHandler())
    options = ModesOptions(
        data=data,
        pretrain=pretrain,
        size=size,
        devices=devices,
        profile=profile,
        concurrency=concurrency,
        buffer=buffer,
        sync_deadline_s=sync_deadline_s,
        async_deadline_s=async_deadline_s,
        hours=hours,
        seeds=seeds,
        rates=_rates(rates),
        seed=seed,
        picture=picture,
    )
    try:
        found = asyncio.run(run(options, make_console(stderr=as_json)))
    except (CorpusError, DemoError, ProfileError, OperatorError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except ModesError as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error
    if as_json:
        sys.stdout.write(json.dumps(found.summary()) + "\n")


def _rates(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SimulatorError(
            f"--rates {text!r}: numbers with commas between", SimulatorExitCode.USAGE
        ) from None
    if not all(rate > 0 for rate in found):
        raise SimulatorError(f"--rates {text!r}: every rate is above 0", SimulatorExitCode.USAGE)
    return found
