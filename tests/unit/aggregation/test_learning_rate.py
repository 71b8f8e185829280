"""The rate by steps, against numbers worked out by hand."""

import pytest

from keyflock_server.aggregation.learning_rate import rate_ratio
from keyflock_server.rounds.task import LearningRateSchedule


def ratios(schedule: LearningRateSchedule, *steps: int) -> list[float]:
    return [round(rate_ratio(schedule, step), 6) for step in steps]


def test_a_constant_rate_is_constant() -> None:
    assert ratios(LearningRateSchedule(), 0, 1, 10**6) == [1.0, 1.0, 1.0]


def test_a_warm_up_has_no_step_without_a_rate() -> None:
    assert ratios(LearningRateSchedule(warmup_rounds=4), 0, 1, 2, 3, 4) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_cosine_goes_from_all_to_its_final_share_and_stays_there() -> None:
    schedule = LearningRateSchedule(name="cosine", warmup_rounds=2, decay_rounds=10, final_ratio=0.1)

    assert ratios(schedule, 1, 2, 7, 12, 1000) == [1.0, 1.0, 0.55, 0.1, 0.1]


def test_an_exponential_falls_by_its_share_every_so_many_steps_and_no_further_than_its_floor() -> None:
    schedule = LearningRateSchedule(name="exponential", decay_rounds=10, decay_ratio=0.5, final_ratio=0.2)

    assert ratios(schedule, 0, 10, 20, 30) == [1.0, 0.5, 0.25, 0.2]
    assert rate_ratio(schedule, 5) == pytest.approx(0.5**0.5)
