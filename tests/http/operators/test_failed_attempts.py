"""Guesses of a token: late answers, counted, told without the value, and nobody else is kept out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from keyflock_server.http.failed_attempts import (
    FIRST_DELAY_S,
    FORGOTTEN_AFTER_S,
    MAX_DELAY_S,
    MAX_WAITING,
    FailedAttempts,
)
from keyflock_server.protocol.operator.tasks import TASKS
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

pytestmark = pytest.mark.fault("D6")


class MonotonicClock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now_s += duration_s


def counted(metrics: Metrics, outcome: str) -> float | None:
    name = "keyflock_admin_authentication_failures_total"
    return metrics.registry.get_sample_value(name, {"outcome": outcome})


async def test_each_failure_is_answered_later_than_the_one_before_up_to_a_bound() -> None:
    clock = MonotonicClock()
    attempts = FailedAttempts(Metrics(), clock.sleep, clock)

    for _ in range(12):
        await attempts.delay_failure()

    assert clock.slept[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == MAX_DELAY_S


async def test_after_a_while_without_failures_the_delay_begins_anew() -> None:
    clock = MonotonicClock()
    attempts = FailedAttempts(Metrics(), clock.sleep, clock)
    for _ in range(5):
        await attempts.delay_failure()

    clock.now_s += FORGOTTEN_AFTER_S + 1.0
    await attempts.delay_failure()

    assert clock.slept[-1] == FIRST_DELAY_S


async def test_failures_beyond_those_that_may_wait_are_refused_at_once() -> None:
    never, metrics = asyncio.Event(), Metrics()
    attempts = FailedAttempts(metrics, lambda _: never.wait())
    waiting = [asyncio.create_task(attempts.delay_failure()) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)

    with pytest.raises(ApiError) as refused:
        await attempts.delay_failure()
    never.set()
    await asyncio.gather(*waiting)

    assert refused.value.code is ProblemCode.TOO_MANY_REQUESTS
    assert (counted(metrics, "delayed"), counted(metrics, "refused")) == (MAX_WAITING, 1)


async def test_the_right_token_is_answered_at_once_while_wrong_ones_wait(
    admin_port: AdminPort, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    admin_port.sleep.gate.clear()
    wrong = {"Authorization": "Bearer hunter2-guessed"}

    guesses = [
        asyncio.create_task(admin_port.request("GET", "/admin/v1/tasks", headers=wrong))
        for _ in range(MAX_WAITING)
    ]
    while admin_port.sleep.waiting < MAX_WAITING:  # noqa: ASYNC110 - the other side runs in this loop
        await asyncio.sleep(0)
    beyond = await admin_port.request("GET", "/admin/v1/tasks", headers=wrong)
    right = await admin_port.send(TASKS)
    answered_early = [guess for guess in guesses if guess.done()]
    admin_port.sleep.gate.set()
    answers = await asyncio.gather(*guesses)

    assert right.status == 200
    assert (beyond.status, beyond.code()) == (429, "too_many_requests")
    assert answered_early == []
    assert {answer.code() for answer in answers} == {"token_invalid"}
    assert [record.msg for record in caplog.records if record.name == "keyflock.operator"] == [
        "a call showed no token of an operator, or a wrong one"
    ]
    assert "hunter2" not in caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "127.0.0.1" not in "".join(repr(vars(r)) for r in caplog.records if r.name.startswith("keyflock"))
