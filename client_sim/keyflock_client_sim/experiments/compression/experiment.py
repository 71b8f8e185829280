"""This experiment compares compression arms on the same phones and seeds, from text to the report.

    text -> version 0; one half of the users' phones train, the other half of the users is held out
    an arm and a seed -> rounds -> recall after every few of them, and the bytes that phones had sent

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
from keyflock_client_sim.console import changing_line
from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import DeviceText, LeftOutUsers, Split, into_devices, take_public
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.compression.options import (
    FLOAT32,
    CompressionError,
    CompressionOptions,
    arm_name,
)
from keyflock_client_sim.experiments.compression.report import CompressionCost, print_cost
from keyflock_client_sim.experiments.compression.result_cache import load_result, save_result
from keyflock_client_sim.experiments.compression.run import ArmResult, CompressionExperiment, run_arm
from keyflock_client_sim.experiments.personalisation.users import split_users
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.options import BUILTIN, DemoOptions
from keyflock_client_sim.training_setup.starting_point import starting_point, version_0
from keyflock_client_sim.training_setup.text import PUBLIC_RATIO
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.text.sequences import encode_messages

#: Phones with fewer examples take no part, as in the demo's task.
_MIN_EXAMPLES: Final = 8


async def run(options: CompressionOptions, console: Console) -> CompressionCost:
    """Measure, print and draw.

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
    if isinstance(origin, PretrainingSpec):
        origin = replace(origin, seconds=None, epochs=options.pretrain_epochs)
    if parts.left_out.users:
        console.print(str(parts.left_out), soft_wrap=True)
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        with changing_line(console, "version 0") as show_progress:
            start = await version_0(
                origin,
                pool,
                cache=cache / "pretrained",
                clock=time.monotonic,
                on_progress=lambda seen: show_progress(f"version 0: {seen.ratio:.0%} of pre-training"),
            )
            experiment = prepare_experiment(options, start, parts, pool)
            found = await compare(experiment, cache / "studies", console.print, show_progress)
    title = f"{corpus.name}, {start.config.parameter_count:,} parameters, {options.goal} reports a round"
    print_cost(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found


def split_by_user(corpus: Corpus, options: CompressionOptions) -> Split:
    """Split the users into training and held-out ones; a ``builtin`` version 0 takes others before.

    Raises:
        CompressionError: there are too few.
    """
    ratio = PUBLIC_RATIO if options.pretrain == BUILTIN else 0.0
    public, rest = take_public(corpus.users, ratio, seed=options.seed, group_of=corpus.group_of)
    eligible = [user for user in rest if _phones(user, options)]
    left_out = LeftOutUsers.of(rest, len(eligible), options.min_words)
    trained, held_out = split_users(eligible, options.seed)
    if not trained or len(held_out) < 2:
        raise CompressionError(
            f"{corpus.name}: too few users with {options.min_words} words; lower --min-words ({left_out})"
        )

    phones = tuple(one for user in trained for one in _phones(user, options))
    return Split(public, phones, tuple(_phones(user, options)[0] for user in held_out), left_out)


def _phones(user: UserText, options: CompressionOptions) -> tuple[DeviceText, ...]:
    return into_devices(user, options.min_words, options.max_words)


def prepare_experiment(
    options: CompressionOptions, start: Checkpoint, parts: Split, pool: WorkerPool
) -> CompressionExperiment:
    """Encode the text of an experiment.

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
    return CompressionExperiment(options, start, phones, held_out, pool)


async def compare(
    experiment: CompressionExperiment,
    cache_folder: Path,
    print_line: Callable[[str], None],
    show_progress: Callable[[str], None],
) -> CompressionCost:
    """Run every arm under every seed; cached results of earlier runs are used.

    Args:
        experiment: What all runs have in common.
        cache_folder: The folder of cached results.
        print_line: Called with a line for every finished run.
        show_progress: Called with the progress of a run.
    """
    options = experiment.options
    specs = {arm_name(spec): spec for spec in (FLOAT32, *options.arms)}
    runs: dict[str, list[ArmResult]] = {arm: [] for arm in specs}
    for seed in range(options.seed, options.seed + options.seeds):
        for arm, spec in specs.items():
            label = f"seed {seed} {arm}"

            def on_round(number: int, label: str = label) -> None:
                show_progress(f"{label}: {number}/{options.rounds} rounds")

            began_s = time.monotonic()
            result = None if options.is_fresh else load_result(experiment, spec, seed, cache_folder)
            how = "kept"
            if result is None:
                result = await run_arm(experiment, spec, seed=seed, on_round=on_round)
                save_result(result, experiment, spec, cache_folder)
                how = f"{time.monotonic() - began_s:.0f} s"
            runs[arm].append(result)
            print_line(
                f"{label}: {result.points[-1].sent_bytes / result.reports / 1e3:.1f} KB a report ({how})"
            )
    return CompressionCost(
        runs={arm: tuple(results) for arm, results in runs.items()},
        specs=specs,
        parameters=experiment.start.config.parameter_count,
        phones=len(experiment.phones),
        goal=options.goal,
    )


def _draw(found: CompressionCost, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-compression-")) / "compression.png"
    try:
        from keyflock_client_sim.experiments.compression.picture import save_cost

        save_cost(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
