"""``keyflock-sim personalise`` measures what a personal model is worth to each user, and whether it harms."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode


def personalise(
    *,
    data: Annotated[str, typer.Option(metavar=DATA, help="Users and their messages.")] = "shakespeare",
    model: Annotated[
        str,
        typer.Option(metavar="FILE|train", help="A checkpoint, or train one first on the other users."),
    ] = "train",
    pretrain: Annotated[
        str,
        typer.Option(
            metavar="FILE|builtin",
            help="With train: what version 0 has read: a third of the other users, or another corpus.",
        ),
    ] = "builtin",
    rounds: Annotated[int, typer.Option(min=1, help="With train: federated rounds.")] = 40,
    users: Annotated[int, typer.Option(min=2, help="Users measured, at most.")] = 200,
    min_words: Annotated[int, typer.Option(min=20, help="Users with fewer words are left out.")] = 100,
    max_words: Annotated[int, typer.Option(min=100, help="Only so many of a user's latest words.")] = 6_000,
    compare_heads: Annotated[
        bool, typer.Option("--compare-heads", help="Also fit the alternatives to a head; takes longer.")
    ] = False,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Deal the messages out at random: nobody's text is their own.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides who is measured.")] = 0,
    size: Annotated[str, typer.Option(metavar=SIZES, help="With train: size of the model.")] = "medium",
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes (PNG).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """Each user's keyboard learns from the earlier messages; the later ones judge it.

    Half of the users train the shared model, the others are measured; what is known of the former is the
    prior of the latter, as `personalize` rounds would give it.
    """
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.experiments.personalisation.experiment import run
    from keyflock_client_sim.experiments.personalisation.options import PersonaliseError, PersonaliseOptions
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError
    from keyflock_client_sim.training_setup.options import DemoError

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    options = PersonaliseOptions(
        data=data,
        model=model,
        pretrain=pretrain,
        rounds=rounds,
        users=users,
        min_words=min_words,
        max_words=max_words,
        compare_heads=compare_heads,
        shuffled=shuffled,
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
