"""This experiment measures heads while the trunk under them changes, from a corpus to the report.

other users -> versions of a trunk      measured users -> heads on version 0, judged on every version
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.console import changing_line
from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.corpora.splits import LeftOutUsers
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.drift.options import FEDERATED, DriftOptions
from keyflock_client_sim.experiments.drift.report import DriftResult, print_drift
from keyflock_client_sim.experiments.drift.users import MeasureDrift
from keyflock_client_sim.experiments.drift.versions import (
    FitMaps,
    MeasureSteps,
    TrunkVersions,
    random_steps,
)
from keyflock_client_sim.experiments.federated_trunk import TrunkSpec, train_trunk_versions
from keyflock_client_sim.experiments.personalisation.options import TRAIN, PersonaliseError
from keyflock_client_sim.experiments.personalisation.users import UserMessages, cut_in_time, split_users
from keyflock_client_sim.pretraining.checkpoint_cache import load_or_pretrain
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.starting_point import read_checkpoint
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig

#: Users a job: few, so that two workers end at about the same time.
_USERS_A_JOB: Final = 4


async def run(options: DriftOptions, console: Console) -> dict[str, object]:
    """Measure, print and draw.

    Returns:
        `DriftResult.summary`.
    Raises:
        PersonaliseError, CorpusError: the data is not enough, or not readable.
        DemoError: the checkpoint is not readable.
    """
    corpus = read_corpus(options.data)
    eligible = [user for user in corpus.users if user.words >= options.min_words]
    left_out = LeftOutUsers.of(corpus.users, len(eligible), options.min_words)
    others, measured = split_users(eligible, options.seed)
    if not measured or len(others) < 2:
        raise PersonaliseError(f"{options.data}: too few users with {options.min_words} words: {left_out}")
    if left_out.users:
        console.print(str(left_out), soft_wrap=True)
    users = [cut_in_time(user, options.max_words) for user in measured[: options.users]]
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        cut = max(1, len(others) // 3)
        start = await _version_0(options, pool, cache, tuple(others[:cut]))
        with changing_line(console) as show_progress:
            bodies = await _bodies(options, pool, start, tuple(others[cut:]), show_progress)
            versions = TrunkVersions(
                tuple(pool.publish(body) for body in bodies), start.config, start.vocabulary
            )
            show_progress("users")
            found = await measure(pool, versions, users, refit_every=options.refit_every)
    if not found.users:
        raise PersonaliseError(f"{options.data}: the users have no words to judge")
    title = f"{corpus.name}: {len(found.users)} users' heads over {len(bodies) - 1} {options.by} changes"
    print_drift(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found.summary()


async def measure(
    pool: WorkerPool, versions: TrunkVersions, users: Sequence[UserMessages], *, refit_every: int
) -> DriftResult:
    """Measure every user under every policy.

    Args:
        pool: Runs the jobs.
        versions: The versions of the trunk, published to the pool.
        users: The users' messages, cut in time.
        refit_every: Versions from one refit to the next.
    """
    numbers = range(1, len(versions.digests))
    shares = [tuple(numbers[at :: pool.workers]) for at in range(pool.workers)]
    parts = await asyncio.gather(*(pool.run(FitMaps(versions, share)) for share in shares))
    by_number = {
        number: state
        for share, part in zip(shares, parts, strict=True)
        for number, state in zip(share, part, strict=True)
    }
    maps = tuple(by_number[number] for number in numbers)
    groups = [tuple(users[at : at + _USERS_A_JOB]) for at in range(0, len(users), _USERS_A_JOB)]
    found = await asyncio.gather(
        *(pool.run(MeasureDrift(versions, maps, group, refit_every)) for group in groups)
    )
    moved = await pool.run(MeasureSteps(versions))
    judged = tuple(figures for group in found for figures in group if figures.public_words)
    return DriftResult(judged, tuple(moved), refit_every)


async def _version_0(
    options: DriftOptions, pool: WorkerPool, cache: Path, public: tuple[UserText, ...]
) -> Checkpoint:
    if options.model != TRAIN:
        return read_checkpoint(Path(options.model))
    try:
        config = ModelConfig.named(options.size)
    except ValueError as error:
        raise PersonaliseError(f"--size: {error}") from None
    order = PretrainingSpec(
        corpus="a third of the other users",
        users=public,
        config=config,
        seed=options.seed,
        seconds=60.0,
        epochs=5.0,
    )
    return await load_or_pretrain(order, pool, folder=cache / "pretrained", clock=time.monotonic)


async def _bodies(
    options: DriftOptions,
    pool: WorkerPool,
    start: Checkpoint,
    phones: tuple[UserText, ...],
    show_progress: Callable[[str], None],
) -> list[bytes]:
    if options.by != FEDERATED:
        return random_steps(start, options.versions, step_ratio=options.step_ratio, seed=options.seed)
    # A round more than asked for: the fleet stops when a phone finds no work, before the last one closes.
    bodies = await train_trunk_versions(
        start,
        phones,
        TrunkSpec(rounds=options.versions + 1, goal=options.goal, seed=options.seed),
        pool,
        on_round=lambda closed: show_progress(f"federated rounds: {closed}/{options.versions}"),
    )
    return bodies[: options.versions + 1]


def _draw(found: DriftResult, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-drift-")) / "drift.png"
    try:
        from keyflock_client_sim.experiments.drift.picture import save_drift

        save_drift(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
