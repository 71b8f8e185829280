"""A fleet on the real clock, against a scripted server; windows are so short that nobody waits."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.drivers.trainer import Trainer
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.testing.scripted_server import ScriptedServer
from keyflock_server.protocol.calls import Exchange, Request, Response
from keyflock_server.protocol.messages import ReturnWindow

MakeCrew = Callable[..., Any]
SOON = ReturnWindow(min_s=0.0, max_s=0.01)


def _fleet(
    phones: tuple[Phone, ...], exchange: Exchange, trainer: Trainer, **options: float
) -> RealTimeFleet:
    return RealTimeFleet(phones, exchange, trainer, time_scale=math.inf, **options)  # type: ignore[arg-type]  # each by its own name


def _task_is_over(stats: FleetStats) -> bool:
    return stats.rejected["no_active_task"] > 0


async def test_rounds_close_and_what_is_acked_is_what_is_counted(crew: MakeCrew) -> None:
    hired, server = crew(20, "ideal"), ScriptedServer(goal=10, max_rounds=3, window=SOON)

    stats = await _fleet(hired.phones, server, hired.trainer).run(until=_task_is_over, limit_s=20.0)

    assert server.closed == [10, 10, 10]
    assert stats.reports_acked == len(server.counted) == 30


async def test_no_more_calls_are_under_way_than_allowed(crew: MakeCrew) -> None:
    class Crowded(ScriptedServer):
        now = max_concurrent = 0

        async def send(self, request: Request) -> Response:
            self.now += 1
            self.max_concurrent = max(self.max_concurrent, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().send(request)

    hired, server = crew(20, "ideal"), Crowded(goal=10, max_rounds=1, window=SOON)

    await _fleet(hired.phones, server, hired.trainer, max_calls=3).run(until=_task_is_over, limit_s=20.0)

    assert server.max_concurrent == 3


async def test_a_stop_lets_reports_settle_and_leaves_no_task_behind(crew: MakeCrew) -> None:
    class Announcing(ScriptedServer):
        def __init__(self) -> None:
            super().__init__(goal=10, window=SOON)
            self.first_report = asyncio.Event()

        async def send(self, request: Request) -> Response:
            if request.path.endswith("/report"):
                self.first_report.set()
            return await super().send(request)

    hired, server = crew(10, "ideal"), Announcing()
    fleet = _fleet(hired.phones, server, hired.trainer)
    running = asyncio.create_task(fleet.run(limit_s=20.0))
    async with asyncio.timeout(120.0):
        await server.first_report.wait()

    fleet.stop()
    stats = await running

    assert stats.reports_acked == len(server.counted)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_fleet_leaves_no_task_behind(crew: MakeCrew) -> None:
    hired = crew(10)
    fleet = _fleet(hired.phones, ScriptedServer(window=SOON), hired.trainer)
    running = asyncio.create_task(fleet.run())
    await asyncio.sleep(0)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_fleet_that_ran_before_goes_on_with_its_phones_as_they_are(crew: MakeCrew) -> None:
    hired, server = crew(10, "ideal"), ScriptedServer(goal=10, max_rounds=2, window=SOON)
    fleet = _fleet(hired.phones, server, hired.trainer)

    await fleet.run(until=lambda stats: stats.reports_acked >= 1, limit_s=20.0)
    stats = await fleet.run(until=_task_is_over, limit_s=20.0)

    assert stats.enrolled == 10
    assert server.closed == [10, 10]
    assert stats.reports_acked == 20


async def test_an_error_in_a_phone_ends_the_run_and_is_not_hidden(crew: MakeCrew) -> None:
    class Broken(ScriptedServer):
        async def send(self, request: Request) -> Response:
            raise ZeroDivisionError(f"a bug at {request.path}")

    hired = crew(3, "ideal")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await _fleet(hired.phones, Broken(), hired.trainer).run(limit_s=20.0)

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_run_ends_when_its_time_is_over(crew: MakeCrew) -> None:
    hired = crew(3, "ideal")

    stats = await _fleet(hired.phones, ScriptedServer(), hired.trainer).run(limit_s=0.05)

    assert 0.05 <= stats.now_s < 5.0


def test_time_cannot_stand_still_for_phones(crew: MakeCrew) -> None:
    hired = crew(1)

    with pytest.raises(ValueError, match="time_scale"):
        RealTimeFleet(hired.phones, ScriptedServer(), hired.trainer, time_scale=0.0)
