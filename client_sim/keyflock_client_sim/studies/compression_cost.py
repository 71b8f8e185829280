"""What compression costs in recall: the same phones with the same luck in every arm, from text to the report.

    text -> version 0; one half of the users' phones train, the other half of the users is asked
    an arm and a seed -> rounds -> recall after each few of them, and the bytes that phones had sent

Source: the question is that of Konečný et al. 2016, arXiv:1610.05492.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import DeviceText, Split, into_devices, take_public
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.demo.options import BUILTIN, DemoOptions
from keyflock_client_sim.demo.starting_point import starting_point, version_0
from keyflock_client_sim.demo.text import PUBLIC_RATIO
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.personalising.users import halves
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.studies.compression_kept import keep, kept
from keyflock_client_sim.studies.compression_options import (
    FLOAT32,
    CompressionError,
    CompressionOptions,
    name_of,
)
from keyflock_client_sim.studies.compression_report import CompressionCost, print_cost
from keyflock_client_sim.studies.compression_run import ArmRun, Laboratory, run_arm
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.sequences import encode_messages

#: As the demo's task says: phones with less text are not asked.
_MIN_EXAMPLES: Final = 8


async def run(options: CompressionOptions, console: Console) -> CompressionCost:
    """Measures, prints and draws.

    Raises:
        CompressionError, CorpusError: the data is not enough, or not readable.
        DemoError: the checkpoint is not readable, or there is no such size.
    """
    corpus = read_corpus(options.data)
    parts = split_by_user(corpus, options)
    demo = DemoOptions(
        data=options.data,
        pretrain=options.pretrain,
        size=options.size,
        seed=options.seed,
    )
    origin = starting_point(demo, corpus, parts)
    if isinstance(origin, PretrainingOrder):
        origin = replace(origin, seconds=None, epochs=options.pretrain_epochs)
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        with console.status("version 0") as status:
            start = await version_0(
                origin,
                pool,
                cache=cache / "pretrained",
                clock=time.monotonic,
                on_progress=lambda seen: status.update(f"version 0: {seen.ratio:.0%} of pre-training"),
            )
            laboratory = laboratory_of(options, start, parts, pool)
            found = await compare(laboratory, cache / "studies", console.print, status.update)
    title = f"{corpus.name}, {start.config.parameter_count:,} parameters, {options.goal} reports a round"
    print_cost(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found


def split_by_user(corpus: Corpus, options: CompressionOptions) -> Split:
    """Users whose phones train, and users who are asked; a ``builtin`` version 0 takes others before.

    Raises:
        CompressionError: there are too few.
    """
    ratio = PUBLIC_RATIO if options.pretrain == BUILTIN else 0.0
    public, rest = take_public(corpus.users, ratio, seed=options.seed, group_of=corpus.group_of)
    able = [user for user in rest if _phones(user, options)]
    trained, asked = halves(able, options.seed)
    if not trained or len(asked) < 2:
        raise CompressionError(
            f"{corpus.name}: too few users with {options.min_words} words; lower --min-words"
        )

    phones = tuple(one for user in trained for one in _phones(user, options))
    return Split(public, phones, tuple(_phones(user, options)[0] for user in asked))


def _phones(user: UserText, options: CompressionOptions) -> tuple[DeviceText, ...]:
    return into_devices(user, options.min_words, options.max_words)


def laboratory_of(
    options: CompressionOptions, start: Checkpoint, parts: Split, pool: WorkerPool
) -> Laboratory:
    """Everything encoded.

    Raises:
        CompressionError: there are fewer phones than a round needs.
    """
    phones, held_out = (
        {one.device: encode_messages(start.vocabulary, one.messages, SEQUENCE_LENGTH) for one in texts}
        for texts in (parts.phones, parts.held_out)
    )
    phones = {name: rows for name, rows in phones.items() if len(rows) >= _MIN_EXAMPLES}
    if len(phones) < options.goal:
        raise CompressionError(
            f"a round needs {options.goal} phones and there are {len(phones)}; lower --goal"
        )
    return Laboratory(options, start, phones, held_out, pool)


async def compare(
    laboratory: Laboratory, folder: Path, say: Callable[[str], None], show: Callable[[str], None]
) -> CompressionCost:
    """Every arm under every seed; what an earlier study left is not done again.

    Args:
        laboratory: What runs have in common.
        folder: Where runs are kept.
        say: Told of every run that is over.
        show: Told how far a run is.
    """
    options = laboratory.options
    specs = {name_of(spec): spec for spec in (FLOAT32, *options.arms)}
    runs: dict[str, list[ArmRun]] = {arm: [] for arm in specs}
    for seed in range(options.seed, options.seed + options.seeds):
        for arm, spec in specs.items():
            label = f"seed {seed} {arm}"

            def on_round(number: int, label: str = label) -> None:
                show(f"{label}: {number}/{options.rounds} rounds")

            began_s = time.monotonic()
            lived = None if options.is_fresh else kept(laboratory, spec, seed, folder)
            how = "kept"
            if lived is None:
                lived = await run_arm(laboratory, spec, seed=seed, on_round=on_round)
                keep(lived, laboratory, spec, folder)
                how = f"{time.monotonic() - began_s:.0f} s"
            runs[arm].append(lived)
            say(f"{label}: {lived.points[-1].sent_bytes / lived.reports / 1e3:.1f} KB a report ({how})")
    return CompressionCost(
        runs={arm: tuple(lived) for arm, lived in runs.items()},
        specs=specs,
        parameters=laboratory.start.config.parameter_count,
        phones=len(laboratory.phones),
        goal=options.goal,
    )


def _draw(found: CompressionCost, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-compression-")) / "compression.png"
    try:
        from keyflock_client_sim.studies.compression_picture import save_cost

        save_cost(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
