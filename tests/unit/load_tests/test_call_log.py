from collections import Counter

import numpy as np
import pytest

from keyflock_load_tests.call_log import CallLog, logs_of_samples, merge_logs, recovery_s
from keyflock_load_tests.measurement import LOST, LOST_ON_PURPOSE, Sample


def samples(call: str, latencies_s: list[float], outcome: str = "ok") -> list[Sample]:
    return [Sample(call, float(at), float(at), at + took_s, outcome) for at, took_s in enumerate(latencies_s)]


def test_a_connection_that_was_cut_or_refused_is_counted_and_has_no_latency() -> None:
    logs = logs_of_samples(
        samples("report", [0.2])
        + samples("report", [9.0], LOST_ON_PURPOSE)
        + samples("report", [0.001] * 3, LOST)
    )

    assert logs["report"].figures(1.0).count == 1
    assert logs["report"].figures(1.0).max_ms == pytest.approx(200.0, rel=1e-3)
    assert logs["report"].outcomes == {"ok": 1, LOST_ON_PURPOSE: 1, LOST: 3}


def test_figures_have_the_count_the_rate_and_the_quantiles() -> None:
    found = logs_of_samples(samples("offer", [n / 1_000 for n in range(1, 1_001)]))["offer"].figures(1_001.0)

    assert found.count == 1_000
    assert found.per_s == pytest.approx(1_000 / 1_001)
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms) == pytest.approx(
        (500.0, 900.0, 990.0, 1_000.0), rel=1e-3
    )


def test_a_rate_is_one_of_good_answers_within_the_time_in_which_load_was_offered() -> None:
    good = samples("report", [0.5, 0.5, 0.5, 7.5])  # the last ends after the load
    refused = samples("report", [0.001] * 9, "overloaded")

    found = logs_of_samples(good + refused)["report"].figures(10.0)

    assert found.count == 13
    assert found.per_s == pytest.approx(0.3)


def test_the_curve_gets_denser_towards_the_slowest_and_ends_with_it() -> None:
    curve = (
        logs_of_samples(samples("offer", [n / 1_000 for n in range(1, 1_001)]))["offer"].figures(1.0).curve
    )

    quantiles = [at for at, _ in curve]
    assert quantiles == sorted(quantiles)
    assert curve[0][0] == 0.0
    assert curve[-1][0] == 1.0
    assert curve[-1][1] == pytest.approx(1_000.0, rel=1e-3)
    assert sum(at > 0.99 for at in quantiles) > 10


def test_a_timeline_has_each_call_in_the_interval_in_which_it_was_due() -> None:
    log = logs_of_samples(samples("check_in", [0.1, 0.2, 0.3]))["check_in"]

    found = log.timeline(2.0)

    assert found.at_s[:2] == [0.25, 0.75]
    # The picture goes on until the last call has ended, 0.3 s after the end of the load.
    assert [count * 0.5 for count in found.ended_per_s] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert found.p99_ms[0] == pytest.approx(100.0)
    assert found.p99_ms[1] is None


def test_the_logs_of_two_generators_are_one_log() -> None:
    visits, burst = logs_of_samples(samples("check_in", [0.1])), logs_of_samples(samples("check_in", [0.3]))

    merged = merge_logs(visits, burst, logs_of_samples(samples("offer", [0.2])))

    assert merged["check_in"].latency_s.tolist() == pytest.approx([0.1, 0.3])
    assert merged["check_in"].outcomes == {"ok": 2}
    assert sorted(merged) == ["check_in", "offer"]


def test_a_server_has_recovered_after_the_last_slow_call() -> None:
    latency_s = np.array([9.0, 5.0, 0.6, 0.1])
    log = CallLog(np.array([1.0, 10.0, 12.5, 20.0]), latency_s, np.ones(4, np.bool_), Counter(ok=4))

    assert recovery_s(log, 10.0, slow_s=0.5) == pytest.approx(2.5)
    assert recovery_s(log, 15.0, slow_s=0.5) == 0.0
