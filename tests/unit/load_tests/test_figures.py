"""What servers say of themselves becomes figures, also when one of them is killed in between."""

from unittest.mock import Mock

import numpy as np
import pytest

from keyflock_load_tests.figures import flush_sizes, histogram_quantile, server_rows, trend_per_h
from keyflock_load_tests.observation import ServerUsage, ServerWatch, readings

EXPOSITION = """
# HELP keyflock_flush_reports Reports in one committed micro-batch.
# TYPE keyflock_flush_reports histogram
keyflock_flush_reports_bucket{le="4.0"} 1.0
keyflock_flush_reports_bucket{le="8.0"} 3.0
keyflock_flush_reports_bucket{le="+Inf"} 3.0
keyflock_flush_reports_count 3.0
keyflock_flush_reports_sum 16.0
# TYPE keyflock_request_duration_seconds histogram
keyflock_request_duration_seconds_count{call="report"} 16.0
"""


def watch() -> ServerWatch:
    return ServerWatch(Mock())


def test_what_a_killed_server_had_counted_is_kept_when_the_next_begins_at_zero() -> None:
    watched = watch()

    for count in (10.0, 15.0, 2.0, 4.0):
        watched.take({"keyflock_reports_total": count})

    # 5 before the kill, 4 after it; the 10 of the first reading are from before the run.
    assert watched.growth["keyflock_reports_total"] == 9.0


def test_the_lag_of_the_event_loop_is_the_mean_since_the_reading_before() -> None:
    watched = watch()

    watched.take({"keyflock_event_loop_lag_seconds_sum": 1.0, "keyflock_event_loop_lag_seconds_count": 10.0})
    watched.take({"keyflock_event_loop_lag_seconds_sum": 1.5, "keyflock_event_loop_lag_seconds_count": 20.0})

    assert watched._loop_lag_ms == pytest.approx(50.0)


def test_flushes_and_the_cost_of_a_call_come_from_the_servers_own_metrics() -> None:
    watched = watch()
    watched.take({})
    watched.take(readings(EXPOSITION))
    watched.usage += [ServerUsage(at_s=at, rss_mib=200.0 + at, cpu_ratio=0.5) for at in (0.5, 1.0)]
    watched.cpu_s = 0.032

    rows = server_rows([watched])

    assert rows["flush"]["mean_reports"] == pytest.approx(16 / 3)
    assert rows["server"]["cpu_ms_per_call"] == pytest.approx(2.0)
    assert rows["server"]["peak_rss_mib"] == 201.0
    assert flush_sizes([watched]) == [(4.0, 1), (8.0, 2), (None, 0)]


def test_a_quantile_lies_at_the_end_of_its_bucket() -> None:
    growth = readings(EXPOSITION)

    assert histogram_quantile(growth, "keyflock_flush_reports", 0.3) == 4.0
    assert histogram_quantile(growth, "keyflock_flush_reports", 0.99) == 8.0
    assert histogram_quantile(growth, "keyflock_nothing", 0.99) is None


def test_a_leak_is_steeper_than_its_noise_and_a_flat_memory_is_not() -> None:
    at_s = np.arange(0.0, 1_800.0, 0.5)
    # A sawtooth that garbage collection would make, five minutes long.
    sawtooth = 5.0 * ((at_s % 300.0) / 300.0)

    flat = trend_per_h(at_s, 300.0 + sawtooth)
    leaking = trend_per_h(at_s, 300.0 + sawtooth + 60.0 * at_s / 3_600.0)

    assert flat is not None
    assert leaking is not None
    assert flat[0] <= flat[1]
    assert leaking[0] > leaking[1]
    assert leaking[0] - flat[0] == pytest.approx(60.0, rel=0.01)


def test_the_first_minutes_of_a_server_are_no_trend() -> None:
    at_s = np.arange(0.0, 60.0, 0.5)

    assert trend_per_h(at_s, 300.0 + at_s) is None
