import math

import numpy as np
import pytest

from keyflock_load_tests.arrivals import arrival_times, rate_per_s, visitors
from keyflock_load_tests.scenario import ArrivalPlan, ScenarioError

DAY = ArrivalPlan(mean_rate_per_s=50.0, duration_s=200.0, diurnal_swing_ratio=0.8, days=1.0)

#: Two-sided false-alarm rate 1e-6 of a normal variable: a Poisson count of mean m stays within z * sqrt(m).
Z_ONE_IN_A_MILLION = 4.892


def test_the_same_seed_gives_the_same_arrivals_in_order_and_within_the_run() -> None:
    first = arrival_times(DAY, np.random.default_rng(7))
    second = arrival_times(DAY, np.random.default_rng(7))

    assert first.tolist() == second.tolist()
    assert first.tolist() == sorted(first.tolist())
    assert first[0] >= 0.0
    assert first[-1] < 200.0


def test_the_count_is_poisson_around_rate_times_duration() -> None:
    times = arrival_times(DAY, np.random.default_rng(8))

    expected = 10_000
    assert abs(len(times) - expected) < Z_ONE_IN_A_MILLION * math.sqrt(expected)


def test_the_middle_of_the_day_is_busy_and_its_ends_are_quiet() -> None:
    times = arrival_times(DAY, np.random.default_rng(9))

    quarter = np.histogram(times, bins=4, range=(0.0, 200.0))[0]
    # The integral of 1 - 0.8 cos over a quarter of its period is 1/4 -/+ 0.8 / 2 pi of the whole.
    for count, share in zip(quarter, (0.25 - 0.8 / math.tau, 0.25 + 0.8 / math.tau), strict=False):
        assert abs(count - 10_000 * share) < Z_ONE_IN_A_MILLION * math.sqrt(10_000 * share)
    assert rate_per_s(DAY, 0.0) == pytest.approx(10.0)
    assert rate_per_s(DAY, 100.0) == pytest.approx(90.0)


def test_without_a_swing_the_rate_is_constant() -> None:
    plan = ArrivalPlan(mean_rate_per_s=3.0, duration_s=10.0)

    assert rate_per_s(plan, [0.0, 1.0, 5.0]).tolist() == [3.0, 3.0, 3.0]


def test_a_phone_returns_only_after_the_whole_fleet_has_come() -> None:
    phones = visitors(10, 4, np.random.default_rng(1))

    assert sorted(phones[:4].tolist()) == [0, 1, 2, 3]
    assert sorted(phones[4:8].tolist()) == [0, 1, 2, 3]
    assert len(phones) == 10
    assert visitors(0, 4, np.random.default_rng(1)).size == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"mean_rate_per_s": -1.0, "duration_s": 1.0},
        {"mean_rate_per_s": 1.0, "duration_s": -1.0},
        {"mean_rate_per_s": 1.0, "duration_s": 1.0, "diurnal_swing_ratio": 1.5},
        {"mean_rate_per_s": 1_000.0, "duration_s": 3_600.0},
    ],
)
def test_a_plan_without_bounds_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ScenarioError, match="arrivals"):
        ArrivalPlan(**fields)
