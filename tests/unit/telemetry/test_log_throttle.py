"""What is told of failures that come again and again."""

import logging
from typing import Any

import pytest

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.telemetry.log_throttle import LOG_INTERVAL_S, LogThrottle
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver


class StepClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_failure_is_told_at_once_and_then_once_a_minute_with_how_many_were_like_it() -> None:
    clock = StepClock()
    repeats = LogThrottle(clock)

    told = []
    for _ in range(300):  # five a second, for a minute
        told.append(repeats.suppressed_count("store unreachable", OSError("gone")))
        clock.now_s += LOG_INTERVAL_S / 300
    told.append(repeats.suppressed_count("store unreachable", OSError("still gone")))

    assert told[0] == 0
    assert set(told[1:-1]) == {None}
    assert told[-1] == 299


def test_another_error_or_another_task_is_told_at_once() -> None:
    repeats = LogThrottle(StepClock())
    repeats.suppressed_count("task stuck", OSError("gone"), "t")

    assert repeats.suppressed_count("task stuck", ValueError("damaged"), "t") == 0
    assert repeats.suppressed_count("task stuck", OSError("gone"), "u") == 0
    assert repeats.suppressed_count("flush failed", OSError("gone"), "t") == 0
    assert repeats.suppressed_count("task stuck", OSError("gone"), "t") is None


def test_every_failure_is_counted_whether_it_is_told_or_not(caplog: pytest.LogCaptureFixture) -> None:
    clock, metrics = StepClock(), Metrics()
    observation = MetricsObserver(metrics, LogThrottle(clock))

    with caplog.at_level(logging.ERROR, "keyflock.rounds"):
        for _ in range(3):
            observation.flush_failed(TaskName("t"), OSError("gone"))
        clock.now_s += LOG_INTERVAL_S
        observation.flush_failed(TaskName("t"), OSError("gone"))

    captured: list[Any] = list(caplog.records)
    assert [getattr(record, "repeated", 0) for record in captured] == [0, 2]
    assert {record.error for record in captured} == {"OSError"}
    assert metrics.flush_failures.labels().value == 4.0
