"""``keyflock-sim compression`` measures what smaller reports cost in recall, on the same phones and seeds."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode


def compression(
    *,
    data: Annotated[str, typer.Option(metavar=DATA, help="Users and their messages.")] = "shakespeare",
    pretrain: Annotated[
        str,
        typer.Option(
            metavar="builtin|none|FILE", help="Version 0: a corpus to pre-train on, or a checkpoint."
        ),
    ] = "builtin",
    pretrain_epochs: Annotated[
        float, typer.Option(min=0.001, help="Passes over the text that version 0 reads.")
    ] = 1.0,
    size: Annotated[str, typer.Option(metavar=SIZES, help="Size of the network.")] = "small",
    arms: Annotated[
        str,
        typer.Option(
            metavar="ARM,...",
            help="What is compared with float32: default, or a codec and its fields, with commas between: "
            "'default, deadzone_rows target_nmse=0.3, topk keep_ratio=0.01'.",
        ),
    ] = "default, deadzone_rows target_nmse=0.3, deadzone_rows target_nmse=0.5",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every run.")] = 30,
    goal: Annotated[int, typer.Option(min=4, help="Reports a round.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 3,
    every: Annotated[int, typer.Option(min=1, help="Rounds from one evaluation to the next.")] = 5,
    min_words: Annotated[int, typer.Option(min=20, help="Users with fewer words are left out.")] = 100,
    max_words: Annotated[
        int, typer.Option(min=100, help="Words of a phone, and of what a held-out user is evaluated on.")
    ] = 2_000,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides who is held out, and the first run.")
    ] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat runs whose results are cached.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes (PNG).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """How much recall do smaller reports cost? Real training, real bytes, without HTTP.

    Every arm has the same phones in the same order under each seed; other users are asked. Results are kept
    in the user's cache folder: start again to go on after an interruption.
    """
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.experiments.compression.experiment import run
    from keyflock_client_sim.experiments.compression.options import (
        CompressionError,
        CompressionOptions,
        parse_arm,
    )
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError
    from keyflock_client_sim.training_setup.options import DemoError

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        wanted = tuple(parse_arm(arm) for arm in arms.split(","))
    except CompressionError as error:
        raise SimulatorError(f"--arms: {error}", SimulatorExitCode.USAGE) from None
    options = CompressionOptions(
        data=data,
        pretrain=pretrain,
        pretrain_epochs=pretrain_epochs,
        size=size,
        arms=wanted,
        rounds=rounds,
        goal=goal,
        seeds=seeds,
        every=every,
        min_words=min_words,
        max_words=max_words,
        seed=seed,
        is_fresh=fresh,
        picture=picture,
    )
    try:
        found = asyncio.run(run(options, make_console(stderr=as_json)))
    except (CorpusError, DemoError, CompressionError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except (JobError, WorkerDiedError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error
    if as_json:
        sys.stdout.write(json.dumps(found.summary()) + "\n")
