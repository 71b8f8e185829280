"""What becomes of heads while the trunk under them moves on: from a corpus to the report.

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
from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.demo.starting_point import read_checkpoint
from keyflock_client_sim.personalising.users import UserMessages, cut_in_time, halves
from keyflock_client_sim.pretraining.kept import pretrained
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.studies.drift_options import FEDERATED, DriftOptions
from keyflock_client_sim.studies.drift_report import Drift, print_drift
from keyflock_client_sim.studies.drift_users import DriftUsers
from keyflock_client_sim.studies.drift_versions import (
    FitMaps,
    MeasureSteps,
    TrunkVersions,
    random_steps,
)
from keyflock_client_sim.studies.personalise_options import TRAIN, PersonaliseError
from keyflock_client_sim.studies.trunk import TrunkOrder, federated_versions
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig

#: Users a job: few, so that two workers end at about the same time.
_USERS_A_JOB: Final = 4


async def run(options: DriftOptions, console: Console) -> dict[str, object]:
    """Measures, prints and draws.

    Returns:
        `Drift.summary`.
    Raises:
        PersonaliseError, CorpusError: the data is not enough, or not readable.
        DemoError: the checkpoint is not readable.
    """
    corpus = read_corpus(options.data)
    able = [
        user for user in corpus.users if sum(len(text.split()) for text in user.messages) >= options.min_words
    ]
    others, measured = halves(able, options.seed)
    if not measured or len(others) < 2:
        raise PersonaliseError(f"{options.data}: too few users with {options.min_words} words or more")
    users = [cut_in_time(user, options.max_words) for user in measured[: options.users]]
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        cut = max(1, len(others) // 3)
        start = await _version_0(options, pool, cache, tuple(others[:cut]))
        with console.status("") as status:
            bodies = await _bodies(options, pool, start, tuple(others[cut:]), status.update)
            versions = TrunkVersions(
                tuple(pool.publish(body) for body in bodies), start.config, start.vocabulary
            )
            status.update("users")
            found = await measure(pool, versions, users, refit_every=options.refit_every)
    if not found.users:
        raise PersonaliseError(f"{options.data}: the users have no words to judge")
    title = f"{corpus.name}: {len(found.users)} users' heads over {len(bodies) - 1} {options.by} changes"
    print_drift(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found.summary()


async def measure(
    pool: WorkerPool, versions: TrunkVersions, users: Sequence[UserMessages], *, refit_every: int
) -> Drift:
    """Every user's figures under every policy.

    Args:
        pool: Does it.
        versions: Of the trunk, published to the pool.
        users: Cut in time.
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
        *(pool.run(DriftUsers(versions, maps, group, refit_every)) for group in groups)
    )
    moved = await pool.run(MeasureSteps(versions))
    judged = tuple(figures for group in found for figures in group if figures.public_words)
    return Drift(judged, tuple(moved), refit_every)


async def _version_0(
    options: DriftOptions, pool: WorkerPool, cache: Path, public: tuple[UserText, ...]
) -> Checkpoint:
    if options.model != TRAIN:
        return read_checkpoint(Path(options.model))
    try:
        config = ModelConfig.named(options.size)
    except ValueError as error:
        raise PersonaliseError(f"--size: {error}") from None
    order = PretrainingOrder(
        corpus="a third of the other users",
        users=public,
        config=config,
        seed=options.seed,
        seconds=60.0,
        epochs=5.0,
    )
    return await pretrained(order, pool, folder=cache / "pretrained", clock=time.monotonic)


async def _bodies(
    options: DriftOptions,
    pool: WorkerPool,
    start: Checkpoint,
    phones: tuple[UserText, ...],
    say: Callable[[str], None],
) -> list[bytes]:
    if options.by != FEDERATED:
        return random_steps(start, options.versions, step_ratio=options.step_ratio, seed=options.seed)
    # A round more than asked for: the fleet stops when a phone finds no work, before the last one closes.
    bodies = await federated_versions(
        start,
        phones,
        TrunkOrder(rounds=options.versions + 1, goal=options.goal, seed=options.seed),
        pool,
        on_round=lambda closed: say(f"federated rounds: {closed}/{options.versions}"),
    )
    return bodies[: options.versions + 1]


def _draw(found: Drift, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-drift-")) / "drift.png"
    try:
        from keyflock_client_sim.studies.drift_picture import save_drift

        save_drift(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
