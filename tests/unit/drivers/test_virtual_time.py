"""A fleet in virtual time, against a scripted server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keyflock_client_sim.device.device_events import AssignmentEnded, CheckInRefused, ReportAcked
from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.fleet_stats import FleetEvent, FleetStats
from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_client_sim.drivers.virtual_clock import EPOCH, VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_client_sim.testing.scripted_server import ScriptedServer
from keyflock_server.protocol.messages import FailureCause, ReturnWindow

MakeCrew = Callable[..., Any]


def _task_is_over(stats: FleetStats) -> bool:
    return stats.rejected["no_active_task"] > 0


async def _happenings(crew: MakeCrew, seed: int) -> list[FleetEvent]:
    hired = crew(20, "realistic", seed)
    seen: list[FleetEvent] = []
    server = ScriptedServer(goal=8, min_flush=4, max_rounds=3)
    fleet = VirtualTimeFleet(
        hired.phones, server, hired.trainer, VirtualClock(), listener=seen.append, drain_s=0.0
    )
    await fleet.run(until=_task_is_over, limit_s=10 * 86_400.0)
    return seen


async def test_rounds_close_and_what_is_acked_is_what_is_counted(crew: MakeCrew) -> None:
    hired, server = crew(30), ScriptedServer(goal=10, min_flush=4, max_rounds=3)

    stats = await VirtualTimeFleet(hired.phones, server, hired.trainer, VirtualClock()).run(
        until=_task_is_over, limit_s=7_200.0
    )

    assert server.closed == [10, 10, 10]
    assert stats.reports_acked == len(server.counted) == 30
    assert sum(stats.acked_by_round.values()) == 30


async def test_the_same_seed_gives_the_same_run_event_by_event(crew: MakeCrew) -> None:
    first, again, other = [await _happenings(crew, seed) for seed in (1, 1, 2)]

    assert first == again
    assert first != other


async def test_lost_calls_and_drop_outs_double_and_lose_nothing(crew: MakeCrew) -> None:
    unlucky = FleetProfile(loss_share=0.3, drop_out_share=0.3, call_timeout_s=5.0, absence_s=60.0)
    hired, server = crew(30, unlucky), ScriptedServer(goal=10, max_rounds=4)

    stats = await VirtualTimeFleet(hired.phones, server, hired.trainer, VirtualClock()).run(
        until=_task_is_over, limit_s=86_400.0
    )

    assert server.closed == [10, 10, 10, 10]
    assert stats.duplicates > 0
    assert stats.call_errors["report: lost"] > 0
    # Phones whose lost answer was the receipt, and that were told that the round is gone when they asked
    # again, are counted without knowing it; no phone is acked without being counted.
    unknowing = stats.session_shapes["-v[]+#"]
    assert len(server.counted) - unknowing <= stats.reports_acked <= len(server.counted)


async def test_virtual_time_passes_as_traits_say(crew: MakeCrew) -> None:
    slow = FleetProfile(
        seconds_per_example=2.0,
        speed_spread=0.0,
        network_spread=0.0,
        latency_s=0.0,
        up_bytes_s=1e12,
        down_bytes_s=1e12,
        loss_share=0.0,
        drop_out_share=0.0,
    )
    hired, server = crew(1, slow), ScriptedServer(goal=1, max_rounds=1)
    seen: list[FleetEvent] = []

    await VirtualTimeFleet(hired.phones, server, hired.trainer, VirtualClock(), listener=seen.append).run(
        until=_task_is_over, limit_s=600.0
    )

    assigned_s, acked_s = (fleet_event.at_s for fleet_event in seen[1:3])
    assert acked_s - assigned_s == pytest.approx(20.0)  # 10 examples


async def test_a_phone_checks_in_only_in_its_idle_hours(crew: MakeCrew) -> None:
    night = FleetProfile(idle_from_h=22.0, idle_hours=8.0, loss_share=0.0, drop_out_share=0.0)
    hired, server = crew(5, night), ScriptedServer(goal=100, window=ReturnWindow(min_s=60.0, max_s=120.0))
    seen: list[FleetEvent] = []

    await VirtualTimeFleet(
        hired.phones, server, hired.trainer, VirtualClock(), listener=seen.append, tick_s=600.0
    ).run(limit_s=2 * 86_400.0)

    hours = {
        fleet_event.at_s % 86_400.0 / 3_600.0
        for fleet_event in seen
        if isinstance(fleet_event.event, CheckInRefused)
    }
    assert len(hours) > 500
    assert all(hour < 6.01 or hour >= 22.0 for hour in hours)


async def test_the_server_is_told_of_every_tick_and_reads_the_same_clock(crew: MakeCrew) -> None:
    hired, server, clock = crew(2), ScriptedServer(goal=50), VirtualClock()

    await VirtualTimeFleet(hired.phones, server, hired.trainer, clock, tick_s=0.5).run(limit_s=30.0)

    assert server.ticks == 61  # the first at the beginning
    assert clock.now_s == 30.0
    assert (clock() - EPOCH).total_seconds() == 30.0


async def test_a_stopped_fleet_goes_on_where_it_was(crew: MakeCrew) -> None:
    whole = await _happenings(crew, seed=1)
    hired, server = crew(20, "realistic", 1), ScriptedServer(goal=8, min_flush=4, max_rounds=3)
    seen: list[FleetEvent] = []
    fleet = VirtualTimeFleet(
        hired.phones, server, hired.trainer, VirtualClock(), listener=seen.append, drain_s=0.0
    )

    for _ in range(200):
        await fleet.run(until=_task_is_over, limit_s=37.0)
        if _task_is_over(fleet.stats):
            break

    assert [(each.phone, each.event) for each in seen] == [(each.phone, each.event) for each in whole]


async def test_a_stop_lets_phones_settle_the_reports_they_have_under_way(crew: MakeCrew) -> None:
    hired, server = crew(12), ScriptedServer(goal=12, min_flush=4)
    fleet = VirtualTimeFleet(hired.phones, server, hired.trainer, VirtualClock())

    stats = await fleet.run(until=lambda stats: stats.reports_acked >= 1)  # three more wait for theirs

    assert stats.reports_acked == len(server.counted) >= 4
    assert not any(phone.device.has_unsettled_report for phone in hired.phones)


class _Endless:
    """Trains for ever."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    def store(self, digest: bytes, body: bytes) -> None:
        del digest, body

    async def train(self, phone: str, work: Train) -> Trained:
        del phone, work
        self.began.set()
        await asyncio.Event().wait()
        raise AssertionError("never comes")


async def test_a_cancelled_fleet_leaves_no_task_behind(crew: MakeCrew) -> None:
    hired, trainer = crew(6, "ideal"), _Endless()
    fleet = VirtualTimeFleet(hired.phones, ScriptedServer(), trainer, VirtualClock())
    running = asyncio.create_task(fleet.run())
    await trainer.began.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert asyncio.all_tasks() == {asyncio.current_task()}


class _Broken:
    """Never has enough memory."""

    def store(self, digest: bytes, body: bytes) -> None:
        del digest, body

    async def train(self, phone: str, work: Train) -> Trained:
        del phone, work
        raise TrainingError(FailureCause.OUT_OF_MEMORY)


async def test_a_failed_training_is_given_back_and_the_fleet_goes_on(crew: MakeCrew) -> None:
    hired = crew(3, "ideal")
    seen: list[FleetEvent] = []
    fleet = VirtualTimeFleet(hired.phones, ScriptedServer(), _Broken(), VirtualClock(), listener=seen.append)

    await fleet.run(limit_s=20.0)

    assert not any(isinstance(each.event, ReportAcked) for each in seen)
    details = {each.event.detail for each in seen if isinstance(each.event, AssignmentEnded)}
    assert details == {"out_of_memory"}


async def test_an_error_in_the_trainer_ends_the_run_and_is_not_hidden(crew: MakeCrew) -> None:
    class Wrong(_Broken):
        async def train(self, phone: str, work: Train) -> Trained:
            del phone, work
            raise ZeroDivisionError("a bug")

    fleet = VirtualTimeFleet(crew(3, "ideal").phones, ScriptedServer(), Wrong(), VirtualClock())

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await fleet.run(limit_s=20.0)

    assert asyncio.all_tasks() == {asyncio.current_task()}
