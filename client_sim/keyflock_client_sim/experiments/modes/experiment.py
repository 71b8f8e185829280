"""This experiment compares synchronous rounds with buffered asynchronous ones, from a corpus to the report.

text -> version 0, phones, held-out phones      a fleet of its own -> a server learning rate for each mode
fleets -> each runs in each mode for some virtual hours -> time, reports and bytes to the same recall@3

Source: the question, and what to count, are those of Huba et al. 2022, arXiv:2111.04877 (Papaya), and of
Nguyen et al. 2022, arXiv:2106.06639 (FedBuff).
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.experiments.modes.options import MODES, ModesOptions
from keyflock_client_sim.experiments.modes.report import ModesComparison, print_modes
from keyflock_client_sim.experiments.modes.run import ModeResult, run_mode
from keyflock_client_sim.experiments.modes.task import task_toml
from keyflock_client_sim.fleet.profiles import FleetProfile, read_profile
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.options import DemoOptions
from keyflock_client_sim.training_setup.starting_point import starting_point, version_0
from keyflock_client_sim.training_setup.text import DemoText, read_demo_text
from keyflock_models.network.checkpoint import Checkpoint

#: Fleets of trials have other seeds than those of comparisons.
_TRIAL_SEED: Final = 1_000
#: So long that pre-training ends with its epochs, however slow the machine: version 0 must be the same.
_PRETRAIN_S: Final = 3_600.0


class ModesError(RuntimeError):
    """There is nothing to compare; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class ModesExperiment:
    """What all runs have in common."""

    options: ModesOptions
    start: Checkpoint
    text: DemoText
    profile: FleetProfile
    pool: WorkerPool

    async def run(self, mode: str, rate: float, *, seed: int, hours: float) -> ModeResult:
        """Run one fleet in one mode."""
        return await run_mode(
            mode,
            task_toml(self.options, mode, rate),
            rate=rate,
            seed=seed,
            hours=hours,
            start=self.start,
            text=self.text,
            profile=self.profile,
            pool=self.pool,
        )


async def run(options: ModesOptions, console: Console) -> ModesComparison:
    """Measure, print and draw.

    Raises:
        CorpusError: the data is not enough, or not readable.
        DemoError: the checkpoint is not readable, or there is no such size.
        ProfileError: there is no such fleet.
        ModesError: a fleet's model did not improve.
    """
    profile = read_profile(options.profile)
    demo = DemoOptions(
        data=options.data,
        pretrain=options.pretrain,
        size=options.size,
        devices=options.devices,
        goal=options.goal,
        seed=options.seed,
        pretrain_s=_PRETRAIN_S,
    )
    corpus, parts = read_demo_text(demo)
    if parts.left_out.users:
        console.print(str(parts.left_out), soft_wrap=True)
    cache = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=cache / "xla") as pool:
        start = await version_0(
            starting_point(demo, corpus, parts),
            pool,
            cache=cache / "pretrained",
            clock=time.monotonic,
            on_progress=lambda _: None,
        )
        text = DemoText.of(parts, start.vocabulary)
        found = await compare(ModesExperiment(options, start, text, profile, pool), console.print)
    title = f"{corpus.name}: {len(text.phones)} phones, {options.concurrency} training at once"
    print_modes(found, console, title=title)
    _draw(found, options.picture, console, title)
    return found


async def compare(experiment: ModesExperiment, print_line: Callable[[str], None]) -> ModesComparison:
    """Find a rate for each mode, then run every fleet in each mode with it."""
    options = experiment.options
    trials: dict[str, dict[float, float]] = {mode: {} for mode in MODES}
    for mode in MODES:
        for rate in options.rates:
            hours = options.trial_ratio * options.hours
            trial = await experiment.run(mode, rate, seed=options.seed + _TRIAL_SEED, hours=hours)
            trials[mode][rate] = trial.mean_recall
            print_line(f"trial   {mode:5} rate {rate:<6g} mean recall@3 {100 * trial.mean_recall:.2f} %")
    runs: dict[str, list[ModeResult]] = {mode: [] for mode in MODES}
    for seed in range(options.seed, options.seed + options.seeds):
        for mode in MODES:
            rate = max(trials[mode], key=trials[mode].__getitem__)
            result = await experiment.run(mode, rate, seed=seed, hours=options.hours)
            runs[mode].append(result)
            last = result.points[-1]
            print_line(
                f"fleet {seed} {mode:5} rate {rate:<6g} recall@3 {100 * result.end_recall:.2f} %, "
                f"{last.version} versions of {last.reports:.0f} reports from {last.trainings:.0f} trainings"
            )
    found = ModesComparison({mode: tuple(results) for mode, results in runs.items()}, trials)
    if found.reached_by_all <= found.start:
        raise ModesError(
            f"after {options.hours:g} hours a fleet's model is no better than version 0: "
            "give them more --hours, or other --rates"
        )
    return found


def _draw(found: ModesComparison, picture: Path | None, console: Console, title: str) -> None:
    place = picture or Path(tempfile.mkdtemp(prefix="keyflock-modes-")) / "modes.png"
    try:
        from keyflock_client_sim.experiments.modes.picture import save_modes

        save_modes(found, place, title=title)
        console.print(f"picture               {place}", soft_wrap=True)
    except ImportError:
        console.print("picture               not drawn: matplotlib is missing (it comes with keyflock[demo])")
