"""``keyflock-sim pretrain``: version 0 from public text."""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode


def pretrain(
    out: Annotated[Path, typer.Option(help="Where to write the checkpoint (safetensors).")],
    data: Annotated[
        str, typer.Option(metavar=DATA, help="Public text; of shakespeare, the plays' public third.")
    ] = "shakespeare",
    size: Annotated[str, typer.Option(metavar=SIZES, help="Size of the model.")] = "full",
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after this much training time.")] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, help="End after so many passes; 5 if nothing else ends it.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Decides parameters, order and split; not how far --seconds gets on this machine.",
        ),
    ] = 0,
    language: Annotated[
        str, typer.Option(help="Of the public vocabulary; docs/vocabulary.md lists those supported.")
    ] = "en",
    public_ratio: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Share of plays or users to train on; default: plays 1/3, files 1."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on where a killed run of the same order was, or begin anew.")
    ] = True,
) -> None:
    """Train a first model centrally on public text; phones then start from it.

    Killed at any moment, the same command goes on from the state file beside the output.
    """
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.pretraining.progress import StateError
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError
    from keyflock_models.text.vocabulary import VocabularyError

    try:
        asyncio.run(_pretrain(out, data, size, seconds, epochs, seed, language, public_ratio, resume))
    except (CorpusError, StateError, VocabularyError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except (JobError, WorkerDiedError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error


async def _pretrain(
    out: Path,
    data: str,
    size: str,
    seconds: float | None,
    epochs: float | None,
    seed: int,
    language: str,
    public_ratio: float | None,
    resume: bool,
) -> None:
    from keyflock_client_sim.corpora.sources import SHAKESPEARE, read_corpus
    from keyflock_client_sim.corpora.splits import take_public
    from keyflock_models.network.config import SIZES, ModelConfig
    from keyflock_models.text.languages import supported_language
    from keyflock_models.text.vocabulary import VocabularyError

    # What can be wrong is looked at before JAX is loaded.
    if size not in SIZES:
        raise SimulatorError(f"no model size {size!r}; there are {', '.join(SIZES)}", SimulatorExitCode.USAGE)
    try:
        language = supported_language(language)
    except VocabularyError as error:
        raise SimulatorError(f"--language: {error}", SimulatorExitCode.USAGE) from None
    corpus = read_corpus(data)

    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.cli.pretraining_progress import PretrainingBar
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.pretraining import driver
    from keyflock_client_sim.pretraining.progress import write_atomically
    from keyflock_client_sim.pretraining.spec import DEFAULT_EPOCHS, PretrainingSpec
    from keyflock_client_sim.training.pool import WorkerPool

    ratio = public_ratio if public_ratio is not None else (1 / 3 if data == SHAKESPEARE else 1.0)
    users, _ = take_public(corpus.users, ratio, seed=seed, group_of=corpus.group_of)
    order = PretrainingSpec(
        corpus=corpus.name,
        users=users,
        config=ModelConfig.named(size),
        language=language,
        seed=seed,
        seconds=seconds,
        epochs=epochs if epochs is not None or seconds is not None else DEFAULT_EPOCHS,
    )
    state_path = out.with_name(f"{out.name}.state")
    if not resume:
        state_path.unlink(missing_ok=True)
    cache = user_cache_folder(os.environ) / "xla"
    console = make_console(stderr=True)
    async with WorkerPool.single_worker(compilation_cache=cache) as pool:
        with PretrainingBar(console) as bar:
            checkpoint = await driver.pretrain(
                order, pool, clock=time.monotonic, state_path=state_path, on_progress=bar.show
            )
    write_atomically(checkpoint.to_bytes(), out)
    state_path.unlink(missing_ok=True)
    console.print(
        f"{out}: {checkpoint.config.parameter_count:,} parameters, trained on {corpus.name}", soft_wrap=True
    )
