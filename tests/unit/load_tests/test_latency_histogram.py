"""The histogram keeps latencies to three digits."""

import math

import numpy as np

from keyflock_load_tests.latency_histogram import LatencyHistogram


def test_a_quantile_is_the_exact_one_up_to_a_thousandth() -> None:
    latencies_s = np.random.default_rng(1).lognormal(-5.0, 2.0, 10_000)

    histogram = LatencyHistogram.of(latencies_s)

    for ratio in (0.5, 0.9, 0.99, 0.999, 1.0):
        exact_ms = 1e3 * float(np.quantile(latencies_s, ratio, method="inverted_cdf"))
        assert exact_ms - 1e-3 <= histogram.quantile_ms(ratio) <= exact_ms * 1.001 + 1e-3


def test_microseconds_are_exact() -> None:
    histogram = LatencyHistogram.of([1e-6 * value + 1e-9 for value in (1, 2, 2047)])

    assert [histogram.quantile_ms(ratio) for ratio in (0.3, 0.6, 1.0)] == [0.001, 0.002, 2.047]


def test_an_hour_and_nothing_are_counted_too() -> None:
    histogram = LatencyHistogram.of([3_600.0, -1.0])

    assert histogram.quantile_ms(0.5) == 0.0
    assert math.isclose(histogram.quantile_ms(1.0), 3.6e6, rel_tol=1e-3)


def test_without_latencies_there_is_no_quantile() -> None:
    assert math.isnan(LatencyHistogram().quantile_ms(0.5))
