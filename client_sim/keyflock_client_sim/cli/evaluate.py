"""``keyflock-sim evaluate`` measures a checkpoint on users who took no part in its training."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode

if TYPE_CHECKING:
    from keyflock_models.network.checkpoint import Checkpoint


def evaluate(
    model: Annotated[Path, typer.Option(help="The checkpoint to measure (safetensors).")],
    data: Annotated[
        str, typer.Option(metavar=DATA, help="Users; shakespeare without its public third.")
    ] = "shakespeare",
    against: Annotated[
        Path | None, typer.Option(help="Another checkpoint to compare with, such as version 0.")
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="Held-out phones to measure on, at most.")] = 100,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides who is held out; as in pretrain.")
    ] = 0,
    public_ratio: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.9, help="Share of plays or users left out as public; default: plays 1/3."
        ),
    ] = None,
    keystrokes: Annotated[bool, typer.Option(help="Simulate typing as well, which takes longer.")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model on held-out users, beside a unigram and a Kneser-Ney trigram.

    The baselines count all of the corpus that is not held out: they have in one place what phones never send.
    """
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError

    try:
        checkpoint = _read(model)
        other = None if against is None else _read(against)
        if other is not None and other.vocabulary_digest != checkpoint.vocabulary_digest:
            raise SimulatorError(f"{against}: has another vocabulary than {model}", SimulatorExitCode.INPUT)
        asyncio.run(
            _evaluate(checkpoint, other, data, users, seed, public_ratio, keystrokes, workers, as_json)
        )
    except CorpusError as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except (JobError, WorkerDiedError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error


async def _evaluate(
    checkpoint: "Checkpoint",
    other: "Checkpoint | None",
    data: str,
    users: int,
    seed: int,
    public_ratio: float | None,
    keystrokes: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    import json

    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.sources import SHAKESPEARE, read_corpus
    from keyflock_client_sim.corpora.splits import split
    from keyflock_client_sim.measuring import report
    from keyflock_client_sim.measuring.evaluation import evaluate as evaluate_users
    from keyflock_client_sim.measuring.evaluation import keystroke_savings, publish_checkpoint
    from keyflock_client_sim.measuring.held_out_text import HeldOutText
    from keyflock_client_sim.measuring.scorers import ScorerSource, Trigram, Unigram
    from keyflock_client_sim.training.pool import WorkerPool, available_cores

    corpus = read_corpus(data)
    ratio = public_ratio if public_ratio is not None else (1 / 3 if data == SHAKESPEARE else 0.0)
    everyone = len(corpus.users) * 1_000
    parts = split(corpus, seed=seed, devices=everyone, held_out_devices=users, public_ratio=ratio)
    if parts.left_out.users:
        make_console(stderr=True).print(str(parts.left_out), soft_wrap=True)
    vocabulary = checkpoint.vocabulary
    text = HeldOutText.of(parts, vocabulary)
    cache = user_cache_folder(os.environ) / "xla"
    measured: list[report.MeasuredModel] = []
    async with WorkerPool(workers or available_cores(), compilation_cache=cache) as pool:
        sources: dict[str, ScorerSource] = {"model": publish_checkpoint(pool, checkpoint)}
        if other is not None:
            sources["other model"] = publish_checkpoint(pool, other)
        sources |= {
            "unigram": Unigram(vocabulary, text.elsewhere),
            "trigram": Trigram(vocabulary, text.elsewhere),
        }
        for name, source in sources.items():
            evaluation = await evaluate_users(pool, source, text.sequences)
            saved = (
                await keystroke_savings(pool, source, text.sequences, text.letters, seed=seed)
                if keystrokes
                else None
            )
            measured.append(report.MeasuredModel(name, evaluation, saved))
    gains = {other.name: report.compare(measured[0], other, seed=seed) for other in measured[1:]}
    if as_json:
        typer.echo(json.dumps(report.as_json(measured, gains)))
    else:
        counted = f"all of {corpus.name} that is not held out: {len(text.elsewhere):,} rows in one place"
        report.print_report(measured, gains, make_console(), counted_text=counted)


def _read(path: Path) -> "Checkpoint":
    from keyflock_models.network.checkpoint import Checkpoint, CheckpointError

    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise SimulatorError(f"{path}: {error.strerror or error}", SimulatorExitCode.INPUT) from error
    except CheckpointError as error:
        raise SimulatorError(f"{path}: {error}", SimulatorExitCode.INPUT) from error
