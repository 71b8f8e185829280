"""``keyflock-sim personalise``: what a personal model is worth to each user, and whether it ever harms."""

import asyncio
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyflock_client_sim.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from keyflock_client_sim.corpora.text import UserText
    from keyflock_client_sim.training.pool import WorkerPool
    from keyflock_models.checkpoint import Checkpoint

TRAIN = "train"


def personalise(
    data: Annotated[
        str, typer.Option(help="Users: a .jsonl(.gz) file of users and messages, or 'shakespeare'.")
    ] = "shakespeare",
    model: Annotated[
        str,
        typer.Option(metavar="FILE|train", help="A checkpoint, or train one first on the other users."),
    ] = TRAIN,
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
        bool, typer.Option("--compare-heads", help="Fit what a head could be instead as well; takes longer.")
    ] = False,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Deal the messages out at random: nobody's text is their own.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides who is measured.")] = 0,
    size: Annotated[str, typer.Option(help="With train: full, medium, small or tiny.")] = "medium",
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes (PNG).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """Each user's keyboard learns from the earlier messages; the later ones judge it.

    Half of the users train the shared model, the others are measured; what is known of the former is the
    prior of the latter, as `personalize` rounds would give it.
    """
    from rich.console import Console

    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.demo.options import DemoError
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    console = Console(stderr=as_json)
    try:
        summary = asyncio.run(
            _personalise(
                console,
                data,
                model,
                pretrain,
                rounds,
                users,
                min_words,
                max_words,
                compare_heads,
                shuffled,
                seed,
                size,
                picture,
            )
        )
    except (CorpusError, DemoError) as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    except (JobError, WorkerDiedError) as error:
        raise CommandError(str(error), ExitCode.FAILED) from error
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


async def _personalise(
    console: "Console",
    data: str,
    model: str,
    pretrain: str,
    rounds: int,
    users: int,
    min_words: int,
    max_words: int,
    compare_heads: bool,
    shuffled: bool,
    seed: int,
    size: str,
    picture: Path | None,
) -> dict[str, object]:
    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.corpora.sources import read_corpus
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.demo.starting_point import read_checkpoint
    from keyflock_client_sim.measuring.evaluation import published
    from keyflock_client_sim.personalising.measuring import Priors, learned_priors, measure, split_messages
    from keyflock_client_sim.personalising.report import print_report
    from keyflock_client_sim.training.pool import WorkerPool

    corpus = read_corpus(data)
    able = [user for user in corpus.users if sum(len(text.split()) for text in user.messages) >= min_words]
    others, measured = _halves(able, seed)
    if len(measured) < 2 or len(others) < 2:
        raise CommandError(f"{data}: too few users with {min_words} words", ExitCode.INPUT)
    measured = measured[:users]
    if shuffled:
        measured = _dealt_anew(measured, seed)
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        if model == TRAIN:
            trunk = await _trained(console, pool, cache, tuple(others), pretrain, rounds, seed, size)
        else:
            trunk = read_checkpoint(Path(model))
        source = published(pool, trunk)
        with console.status("") as status:
            known = await measure(
                pool,
                source,
                [split_messages(user, max_words) for user in others[:users]],
                Priors(),
                on_progress=lambda done, all_of: status.update(
                    f"other users, for the prior: {done}/{all_of}"
                ),
            )
            if not known.users:
                raise CorpusError(f"{data}: the other users have no words to judge")
            found = await measure(
                pool,
                source,
                [split_messages(user, max_words) for user in measured],
                learned_priors(known),
                compares_heads=compare_heads,
                on_progress=lambda done, all_of: status.update(f"users: {done}/{all_of}"),
            )
    title = f"{corpus.name}{', shuffled' if shuffled else ''}: {len(found.users)} users, later messages"
    print_report(found, console, title=title)
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-personalise-")) / "personalisation.png"
    try:
        from keyflock_client_sim.personalising.pictures import save_pictures

        save_pictures(found, place, title=title)
        console.print(f"picture               {place}")
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
    return found.summary()


async def _trained(
    console: "Console",
    pool: "WorkerPool",
    cache: Path,
    others: "tuple[UserText, ...]",
    pretrain: str,
    rounds: int,
    seed: int,
    size: str,
) -> "Checkpoint":
    """The trunk: version 0, then rounds over the other users."""
    from keyflock_client_sim.corpora.sources import read_corpus
    from keyflock_client_sim.personalising.trunk import TrunkOrder, federated
    from keyflock_client_sim.pretraining.kept import pretrained
    from keyflock_client_sim.pretraining.order import PretrainingOrder
    from keyflock_models.config import ModelConfig

    try:
        config = ModelConfig.named(size)
    except ValueError as error:
        raise CommandError(f"--size: {error}", ExitCode.USAGE) from None
    if pretrain == "builtin":
        cut = max(1, len(others) // 3)
        name, public, phones = "a third of the other users", others[:cut], others[cut:]
    else:
        corpus = read_corpus(pretrain)
        name, public, phones = corpus.name, corpus.users, others
    order = PretrainingOrder(corpus=name, users=public, config=config, seed=seed, seconds=60.0, epochs=5.0)
    console.print(
        f"version 0 reads {name}; then {rounds} rounds over {len(phones)} users' phones", soft_wrap=True
    )
    start = await pretrained(order, pool, folder=cache / "pretrained", clock=time.monotonic)
    with console.status("") as status:
        return await federated(
            start,
            phones,
            TrunkOrder(rounds=rounds, seed=seed),
            pool,
            cache=cache / "pretrained",
            on_round=lambda closed: status.update(f"federated rounds: {closed}/{rounds}"),
        )


def _halves(users: "list[UserText]", seed: int) -> "tuple[list[UserText], list[UserText]]":
    """Users who train the trunk, and users who are measured; by a hash, so that a grown corpus keeps them."""

    def rank(user: "UserText") -> bytes:
        return hashlib.sha256(f"personalise:{seed}:{user.user}".encode()).digest()

    ordered = sorted(users, key=rank)
    return [user for user in ordered if rank(user)[-1] % 2], [
        user for user in ordered if not rank(user)[-1] % 2
    ]


def _dealt_anew(users: "list[UserText]", seed: int) -> "list[UserText]":
    """The same messages, each with a user drawn at random; everyone keeps their number of messages."""
    from dataclasses import replace

    import numpy as np

    every = [message for user in users for message in user.messages]
    order = np.random.default_rng(seed).permutation(len(every))
    dealt, begin = [], 0
    for user in users:
        end = begin + len(user.messages)
        dealt.append(replace(user, messages=tuple(every[at] for at in order[begin:end])))
        begin = end
    return dealt
