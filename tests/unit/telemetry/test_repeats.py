"""What is told of failures that come again and again."""

import logging
from typing import Any

import pytest

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.observation import Observation
from keyflock_server.telemetry.repeats import TOLD_EVERY_S, Repeats


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_failure_is_told_at_once_and_then_once_a_minute_with_how_many_were_like_it() -> None:
    clock = Clock()
    repeats = Repeats(clock)

    told = []
    for _ in range(300):  # five a second, for a minute
        told.append(repeats.untold("store unreachable", OSError("gone")))
        clock.now_s += TOLD_EVERY_S / 300
    told.append(repeats.untold("store unreachable", OSError("still gone")))

    assert told[0] == 0
    assert set(told[1:-1]) == {None}
    assert told[-1] == 299


def test_another_error_or_another_task_is_told_at_once() -> None:
    repeats = Repeats(Clock())
    repeats.untold("task stuck", OSError("gone"), "t")

    assert repeats.untold("task stuck", ValueError("damaged"), "t") == 0
    assert repeats.untold("task stuck", OSError("gone"), "u") == 0
    assert repeats.untold("flush failed", OSError("gone"), "t") == 0
    assert repeats.untold("task stuck", OSError("gone"), "t") is None


def test_every_failure_is_counted_whether_it_is_told_or_not(caplog: pytest.LogCaptureFixture) -> None:
    clock, metrics = Clock(), Metrics()
    observation = Observation(metrics, Repeats(clock))

    with caplog.at_level(logging.ERROR, "keyflock.rounds"):
        for _ in range(3):
            observation.flush_failed(TaskName("t"), OSError("gone"))
        clock.now_s += TOLD_EVERY_S
        observation.flush_failed(TaskName("t"), OSError("gone"))

    said: list[Any] = list(caplog.records)
    assert [getattr(record, "repeated", 0) for record in said] == [0, 2]
    assert {record.error for record in said} == {"OSError"}
    assert metrics.flush_failures._value.get() == 4.0
