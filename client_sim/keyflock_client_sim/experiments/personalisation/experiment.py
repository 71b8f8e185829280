"""This experiment measures personalisation: one half of the users trains the trunk, the other is measured."""

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.console import changing_line
from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.corpora.splits import LeftOutUsers
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.federated_trunk import TrunkSpec, train_trunk
from keyflock_client_sim.experiments.personalisation.measurement import Priors, measure, priors_from
from keyflock_client_sim.experiments.personalisation.options import (
    TRAIN,
    PersonaliseError,
    PersonaliseOptions,
)
from keyflock_client_sim.experiments.personalisation.report import print_report
from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult
from keyflock_client_sim.experiments.personalisation.users import cut_in_time, shuffle_messages, split_users
from keyflock_client_sim.measuring.evaluation import publish_checkpoint
from keyflock_client_sim.pretraining.checkpoint_cache import load_or_pretrain
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.starting_point import read_checkpoint
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig

#: The maximum number of users whose mixtures make the prior; more do not change it.
_PRIOR_USERS: Final = 200


async def run(options: PersonaliseOptions, console: Console) -> dict[str, object]:
    """Measure, print and draw.

    Returns:
        `PersonalisationResult.summary`.
    Raises:
        PersonaliseError, CorpusError: the data is not enough, or not readable.
        DemoError: the checkpoint is not readable.
    """
    corpus = read_corpus(options.data)
    eligible = [user for user in corpus.users if user.words >= options.min_words]
    left_out = LeftOutUsers.of(corpus.users, len(eligible), options.min_words)
    others, measured = split_users(eligible, options.seed)
    if len(measured) < 2 or len(others) < 2:
        raise PersonaliseError(f"{options.data}: too few users with {options.min_words} words: {left_out}")
    if left_out.users:
        console.print(str(left_out), soft_wrap=True)
    measured = measured[: options.users]
    if options.shuffled:
        measured = shuffle_messages(measured, options.seed)
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        if options.model == TRAIN:
            trunk = await _trained(options, console, pool, cache, tuple(others))
        else:
            trunk = read_checkpoint(Path(options.model))
        source = publish_checkpoint(pool, trunk)
        with changing_line(console) as show_progress:
            known = await measure(
                pool,
                source,
                [cut_in_time(user, options.max_words) for user in others[: min(options.users, _PRIOR_USERS)]],
                Priors(),
                on_progress=lambda done, all_of: show_progress(
                    f"other users, for the prior: {done}/{all_of}"
                ),
            )
            if not known.users:
                raise PersonaliseError(f"{options.data}: the other users have no words to judge")
            found = await measure(
                pool,
                source,
                [cut_in_time(user, options.max_words) for user in measured],
                priors_from(known),
                compares_heads=options.compare_heads,
                on_progress=lambda done, all_of: show_progress(f"users: {done}/{all_of}"),
            )
    if not found.users:
        raise PersonaliseError(f"{options.data}: the users have no words to judge")
    shuffled = ", shuffled" if options.shuffled else ""
    title = f"{corpus.name}{shuffled}: {len(found.users)} users, later messages"
    print_report(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found.summary()


async def _trained(
    options: PersonaliseOptions,
    console: Console,
    pool: WorkerPool,
    cache: Path,
    others: tuple[UserText, ...],
) -> Checkpoint:
    """Train the trunk: version 0, then rounds over the other users."""
    try:
        config = ModelConfig.named(options.size)
    except ValueError as error:
        raise PersonaliseError(f"--size: {error}") from None
    if options.pretrain == "builtin":
        cut = max(1, len(others) // 3)
        name, public, phones = "a third of the other users", others[:cut], others[cut:]
    else:
        corpus = read_corpus(options.pretrain)
        name, public, phones = corpus.name, corpus.users, others
    order = PretrainingSpec(
        corpus=name, users=public, config=config, seed=options.seed, seconds=60.0, epochs=5.0
    )
    console.print(
        f"version 0 reads {name}; then {options.rounds} rounds over {len(phones)} users' phones",
        soft_wrap=True,
    )
    start = await load_or_pretrain(order, pool, folder=cache / "pretrained", clock=time.monotonic)
    with changing_line(console) as show_progress:
        return await train_trunk(
            start,
            phones,
            TrunkSpec(rounds=options.rounds, seed=options.seed),
            pool,
            cache=cache / "pretrained",
            on_round=lambda closed: show_progress(f"federated rounds: {closed}/{options.rounds}"),
        )


def _draw(found: PersonalisationResult, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-personalise-")) / "personalisation.png"
    try:
        from keyflock_client_sim.experiments.personalisation.picture import save_picture

        save_picture(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
