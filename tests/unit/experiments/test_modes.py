"""Two modes over the same fleet: what a run says, and what is made of runs."""

from typing import cast

import numpy as np
import pytest

from benchmarks.modes import section
from keyflock_client_sim.experiments.modes.experiment import ModesError, ModesExperiment, compare
from keyflock_client_sim.experiments.modes.options import ASYNC, MODES, SYNC, ModesOptions
from keyflock_client_sim.experiments.modes.report import ModesComparison, effort_to_reach, verdict
from keyflock_client_sim.experiments.modes.run import ModeResult, ModesPoint
from keyflock_client_sim.experiments.modes.task import task_toml
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.measuring.held_out_text import HeldOutText
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.text import DemoText
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.rounds.task_validation import parse_task

OPTIONS = ModesOptions(concurrency=8, buffer=4, hours=0.2, seeds=1, rates=(0.1,), trial_ratio=0.5)
CONFIG = ModelConfig.named("tiny")


def point(at_h: float, recall_at_3: float) -> ModesPoint:
    return ModesPoint(
        at_h=at_h,
        version=int(10 * at_h),
        recall_at_3=recall_at_3,
        reports=100 * at_h,
        trainings=130 * at_h,
        uploaded_bytes=2e6 * at_h,
    )


def a_run(mode: str, seed: int, *recalls: float, step_h: float = 1.0) -> ModeResult:
    points = tuple(point(step_h * number, recall) for number, recall in enumerate(recalls))
    return ModeResult(mode, seed, 0.01, points)


def found(*pairs: tuple[ModeResult, ModeResult]) -> ModesComparison:
    runs = {SYNC: tuple(one for one, _ in pairs), ASYNC: tuple(one for _, one in pairs)}
    return ModesComparison(runs, {mode: {0.01: 0.15} for mode in MODES})


def test_a_target_is_reached_between_two_points_by_proportion() -> None:
    points = a_run(SYNC, 0, 0.10, 0.12, 0.16).points

    assert effort_to_reach(points, 0.13, lambda one: one.at_h) == pytest.approx(1.25)
    assert effort_to_reach(points, 0.13, lambda one: one.reports) == pytest.approx(125.0)


def test_a_target_that_is_passed_and_lost_again_counts_as_reached() -> None:
    assert effort_to_reach(
        a_run(SYNC, 0, 0.10, 0.14, 0.12).points, 0.12, lambda one: one.at_h
    ) == pytest.approx(0.5)


def test_a_target_that_is_never_reached_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"never reached 0\.2"):
        effort_to_reach(a_run(SYNC, 0, 0.10, 0.12).points, 0.2, lambda one: one.at_h)


def test_the_target_is_a_share_of_the_gain_that_every_run_makes() -> None:
    two = found((a_run(SYNC, 0, 0.10, 0.2, 0.2, 0.2), a_run(ASYNC, 0, 0.10, 0.3, 0.3, 0.3)))

    assert two.target(0.5) == pytest.approx(0.15)


def test_ratios_are_made_fleet_by_fleet_and_a_winner_wins_on_every_fleet() -> None:
    slow, quick = (0.10, 0.15, 0.20, 0.20, 0.20), (0.10, 0.20, 0.20, 0.20, 0.20)
    two = found(
        (a_run(SYNC, 0, *slow), a_run(ASYNC, 0, *quick)),
        (a_run(SYNC, 1, *slow, step_h=2.0), a_run(ASYNC, 1, *quick)),
    )

    ratio = two.ratio("hours", 0.5)
    assert (ratio.mean, ratio.minimum, ratio.maximum) == pytest.approx((0.375, 0.25, 0.5))
    assert "async wins on time, async on reports" in verdict(two)


def test_a_win_on_one_fleet_and_a_loss_on_another_is_none() -> None:
    slow, quick = (0.10, 0.15, 0.20, 0.20, 0.20), (0.10, 0.20, 0.20, 0.20, 0.20)
    two = found(
        (a_run(SYNC, 0, *slow), a_run(ASYNC, 0, *quick)),
        (a_run(SYNC, 1, *quick), a_run(ASYNC, 1, *slow)),
    )

    assert "neither wins on time" in verdict(two)


def test_as_many_phones_train_at_once_in_either_mode() -> None:
    options = ModesOptions()

    assert {parse_task(task_toml(options, mode, 0.01)).round.slots for mode in MODES} == {39}


@pytest.fixture(scope="module")
def text() -> DemoText:
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    rows = encode_messages(vocabulary, ["w7 w7 w7 w7 w7"] * 12, 20)
    held_out = HeldOutText({"one": rows[:4], "two": rows[:4]}, {}, rows)
    # No two people type the same: reports of the same numbers would make no flush.
    phones = {
        f"phone-{number}": encode_messages(vocabulary, ["w7 w7 w7 w7 w7"] * 12 + [f"w{number}"], 20)
        for number in range(24)
    }
    return DemoText(phones, held_out, 2)


@pytest.fixture(scope="module")
def start() -> Checkpoint:
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    layout = ParamLayout.for_config(CONFIG)
    weights = np.random.default_rng(0).normal(0.0, 0.1, layout.size).astype(np.float32)
    return Checkpoint(CONFIG, vocabulary, weights)


async def test_a_small_fleet_learns_in_both_modes_and_the_page_has_its_figures(
    text: DemoText, start: Checkpoint
) -> None:
    progress: list[str] = []
    async with WorkerPool(1) as pool:
        experiment = ModesExperiment(OPTIONS, start, text, PROFILES["heavy_tailed"], pool)
        two = await compare(experiment, progress.append)

    for mode in MODES:
        (result,) = two.runs[mode]
        last = result.points[-1]
        assert result.end_recall > two.start
        assert last.reports >= last.version * 4 > 0
        assert last.trainings >= last.reports
        assert [one.reports for one in result.points] == sorted(one.reports for one in result.points)
    assert len(progress) == 2 * 2
    page = section(two, OPTIONS)
    assert f"{two.effort(ASYNC, 'hours', 0.9)[0]:.2f} [" in page
    assert f"{two.effort(SYNC, 'MB up', 0.5)[0]:.2f} [" in page


class Unteachable(ModesExperiment):
    """Its fleets end as they begin."""

    async def run(self, mode: str, rate: float, *, seed: int, hours: float) -> ModeResult:
        del rate, hours
        return a_run(mode, seed, 0.125, 0.125, 0.125, 0.125)


async def test_fleets_that_learn_nothing_are_not_compared(text: DemoText, start: Checkpoint) -> None:
    nobody = cast("WorkerPool", None)
    experiment = Unteachable(OPTIONS, start, text, PROFILES["heavy_tailed"], nobody)

    with pytest.raises(ModesError, match="no better than version 0: give them more --hours"):
        await compare(experiment, lambda _: None)
