"""The slope that says whether memory grows."""

import numpy as np
import pytest

from benchmarks.trend import slope

#: Samples of half a day, a quarter of an hour apart.
HOURS = [0.25 * number for number in range(48)]


def wandering(seed: int, correlation: float = 0.6) -> list[float]:
    """Noise whose neighbours are alike."""
    rng = np.random.default_rng(seed)
    values = np.zeros(len(HOURS))
    for index in range(1, len(HOURS)):
        values[index] = correlation * values[index - 1] + rng.normal()
    return values.tolist()


def test_a_straight_line_has_its_own_slope_and_no_interval() -> None:
    found = slope(HOURS, [3.0 + 0.5 * hour for hour in HOURS])

    assert found.per_time == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    assert not found.is_noise


def test_a_constant_does_not_grow() -> None:
    found = slope(HOURS, [7.0] * len(HOURS))

    assert found.per_time == 0.0
    assert found.is_noise


def test_growth_is_found_under_noise() -> None:
    found = [
        slope(HOURS, [2.0 * hour + noise for hour, noise in zip(HOURS, wandering(seed), strict=True)])
        for seed in range(50)
    ]

    assert all(one.low > 0.0 for one in found)


def test_noise_whose_neighbours_are_alike_is_seldom_called_growth() -> None:
    """The ordinary interval is wrong for more than a third of such series."""
    alarms = sum(not slope(HOURS, wandering(seed)).is_noise for seed in range(400))

    assert alarms <= 400 * 0.12


def test_three_samples_are_too_few() -> None:
    with pytest.raises(ValueError, match="four samples"):
        slope([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
