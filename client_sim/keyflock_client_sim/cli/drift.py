"""``keyflock-sim drift`` measures what users' heads are worth while the shared model under them changes."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode


def drift(
    *,
    data: Annotated[str, typer.Option(metavar=DATA, help="Users and their messages.")] = "shakespeare",
    model: Annotated[
        str,
        typer.Option(metavar="FILE|train", help="Version 0: a checkpoint, or train one on other users."),
    ] = "train",
    by: Annotated[
        Literal["federated", "synthetic"],
        typer.Option(help="How the model moves: rounds over the other users' phones, or random steps."),
    ] = "federated",
    versions: Annotated[int, typer.Option(min=1, help="Versions after version 0.")] = 50,
    goal: Annotated[int, typer.Option(min=4, help="Federated: reports a round.")] = 20,
    step_ratio: Annotated[
        float, typer.Option(min=0.0, help="Synthetic: a step's norm, relative to each tensor's.")
    ] = 0.03,
    refit_every: Annotated[int, typer.Option(min=1, help="Versions from one refit to the next.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="Users measured, at most.")] = 24,
    min_words: Annotated[int, typer.Option(min=20, help="Users with fewer words are left out.")] = 500,
    max_words: Annotated[int, typer.Option(min=100, help="Only so many of a user's latest words.")] = 1_500,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides who is measured, and synthetic steps.")
    ] = 0,
    size: Annotated[str, typer.Option(metavar=SIZES, help="With train: size of the model.")] = "small",
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes (PNG).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """Heads are fitted on version 0, from each user's earlier messages; the later ones judge every version.

    Each policy on its own: drop the head, keep it as it is, map it with every version, refit it now and then
    (set aside between), and map and refit.
    """
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.experiments.drift.experiment import run
    from keyflock_client_sim.experiments.drift.options import DriftOptions
    from keyflock_client_sim.experiments.personalisation.options import PersonaliseError
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError
    from keyflock_client_sim.training_setup.options import DemoError

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    options = DriftOptions(
        data=data,
        model=model,
        by=by,
        versions=versions,
        goal=goal,
        step_ratio=step_ratio,
        refit_every=refit_every,
        users=users,
        min_words=min_words,
        max_words=max_words,
        seed=seed,
        size=size,
        picture=picture,
    )
    try:
        summary = asyncio.run(run(options, make_console(stderr=as_json)))
    except (CorpusError, DemoError, PersonaliseError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except (JobError, WorkerDiedError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
