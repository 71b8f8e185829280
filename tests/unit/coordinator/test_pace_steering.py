"""Return windows in a running round: what is counted, what follows, and whom the next round expects."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report

from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import Assignment, EnrolRequest, Refusal
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.availability import ActiveDevices, ArrivalCount, hour_of
from keyflock_server.rounds.selection import is_sampled, round_id
from keyflock_server.storage.errors import StorageUnavailable

TASK = TaskName("t")


async def enrolled(harness: CoordinatorHarness, count: int) -> list[DeviceIdentity]:
    return [await harness.enrol_proven() for _ in range(count)]


async def served(
    harness: CoordinatorHarness, devices: list[DeviceIdentity], seconds: float, *, rest_s: float = 0.0
) -> None:
    """Play a round: all devices get work, report together after a time, and wait until it ends."""
    answers = [await harness.check_in(device) for device in devices]
    harness.pass_time(seconds)
    for answer in answers:
        assert isinstance(answer, Assignment)
        with contextlib.suppress(ApiError):  # the first wait for their micro-batch, the last come too late
            await harness.coordinator.reports.report(
                harness.claims(answer), report(constant(1.0), of=harness.claims(answer))
            )
    harness.pass_time(rest_s)
    await harness.coordinator.tick()


async def test_check_ins_are_counted_by_the_hour_and_not_by_the_phone(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="min_examples = 5")
    devices = await enrolled(harness, 5)
    for device in devices[:3]:
        await harness.check_in(device)
    for device in devices[3:]:
        await harness.check_in(device, examples=1)
    harness.pass_time(91.0)

    await harness.coordinator.tick()

    hour = hour_of(harness.now.timestamp())
    assert await harness.store.arrivals.since(TASK, 0) == [ArrivalCount(TASK, hour, 5, 3)]


async def test_nothing_of_a_task_that_is_over_stays_in_memory(harness: CoordinatorHarness) -> None:
    await harness.task()
    registry = harness.coordinator.registry
    await harness.check_in(await harness.enrol())
    state = await registry.get(TASK)
    task, opened = weakref.ref(state), weakref.ref(state.open_round)

    await harness.coordinator.tasks.cancel(TASK, audit=AUDIT)
    for _ in range(2):
        await harness.coordinator.tick()
    del state
    gc.collect()
    is_round_there = opened() is not None
    registry._over.clear()  # it remembers some tasks, for what arrives late
    gc.collect()

    assert not is_round_there
    assert task() is None


async def test_a_round_expects_the_share_of_phones_that_fitted_lately(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 10")
    await enrolled(harness, 100)
    hour = hour_of(harness.now.timestamp())
    await harness.store.arrivals.add([ArrivalCount(TASK, hour, 990, 240)])
    state = harness.coordinator.registry._states[TASK]
    pace = PaceSteering(harness.coordinator._deps)

    await pace.refresh_stats(state)

    at = harness.now
    assert pace.at(state, at, at.timestamp(), 0.0).eligible_devices == 100 * (240 + 10) / (990 + 10)


async def test_while_a_round_waits_for_reports_the_next_ones_sample_is_called_to_its_opening(
    harness: CoordinatorHarness,
) -> None:
    # A large population: 1,000 phones of which 4 are wanted every 600 s.
    await harness.task(round="goal = 4\nover_selection = 0.0", pacing="min_s = 10.0\nmax_s = 86400.0")
    others = await enrolled(harness, 1_000)
    harness.pass_time(600.0)
    await harness.coordinator.tick()
    first = [device for device in others if isinstance(await harness.check_in(device), Assignment)]
    assert len(first) == 4

    windows = {}
    for device in others:
        answer = await harness.check_in(device)
        if isinstance(answer, Refusal) and answer.reason == "round_full":
            windows[device.device] = answer.return_window

    # T = 1000 * 150 / (4 * 1.5) = 25,000 s.
    aimed = {device for device, window in windows.items() if window.max_s < 1_000.0}
    assert {window.min_s for device, window in windows.items() if device not in aimed} == {12_500.0}
    key = harness.coordinator._deps.sampling_key
    # Two of four slots on average, of the 1000 * 600 / 25000 that come from one opening to the next.
    probability = 2.0 / 24.0
    sequence = harness.coordinator.registry._states[TASK].last_sequence
    sample = {
        device for device in windows if is_sampled(key, round_id(TASK, sequence + 1), device, probability)
    }
    assert aimed == sample
    assert len(aimed) > 0


@pytest.mark.fault("F11")
async def test_waiting_phones_come_seldom_in_the_middle_of_a_round_and_often_when_it_usually_ends(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", pacing="min_s = 10.0\nmax_s = 86400.0")
    devices = await enrolled(harness, 4)
    for _ in range(3):
        await served(harness, devices, 390.0, rest_s=10.0)
    for device in devices:
        await harness.check_in(device)
    opened_at = harness.coordinator.registry._states[TASK].open_round.round.opened_at  # type: ignore[union-attr]  # it is open

    rests = {}
    for passed_s in (25.0, 200.0, 375.0, 500.0):
        harness.pass_time(passed_s - (harness.now - opened_at).total_seconds())
        answers = [await harness.check_in(device) for device in await enrolled(harness, 3)]
        rests[passed_s] = {one.return_window.min_s for one in answers if isinstance(one, Refusal)}

    # A small population meets every 12.5 s. Rounds took 400 s: in the middle a quarter of what is left.
    assert rests == {25.0: {12.5}, 200.0: {50.0}, 375.0: {12.5}, 500.0: {12.5}}


async def test_a_crowd_that_enrols_together_is_spread_and_so_is_one_that_reports_together(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", pacing="min_s = 10.0\nmax_s = 3600.0")
    devices = await enrolled(harness, 1_000)
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US")
    harness.pass_time(600.0)
    await harness.coordinator.tick()
    answers = [await harness.check_in(device) for device in devices]
    claims = [harness.claims(answer) for answer in answers if isinstance(answer, Assignment)]

    late = await harness.coordinator.enrolments.enrol(request, None)
    receipts = []
    for one in [*claims, *claims]:
        with contextlib.suppress(ApiError):  # the first three wait for their micro-batch
            receipts.append(await harness.coordinator.reports.report(one, report(constant(1.0), of=one)))

    assert (late.return_window.min_s, late.return_window.max_s) == (0.0, 3_600.0)
    assert len(receipts) >= 4
    assert {(one.return_window.min_s, one.return_window.max_s) for one in receipts} == {(10.0, 3_610.0)}


async def test_a_task_tunes_its_next_round_by_its_last_ones(harness: CoordinatorHarness) -> None:
    await harness.task(
        round="goal = 40\nover_selection = 0.5\n[round.auto]\nover_selection = [0.05, 1.0]\n"
        "deadline_s = [60.0, 3600.0]"
    )
    before = harness.coordinator.registry._states[TASK].open_round.round.spec.round  # type: ignore[union-attr]  # it is open
    await served(harness, await enrolled(harness, 60), 100.0)

    after = harness.coordinator.registry._states[TASK].open_round.round  # type: ignore[union-attr]  # it is open

    assert (before.over_selection, before.deadline_s) == (0.5, 600.0)
    assert after.sequence == 2
    assert after.spec.round.over_selection != 0.5
    # All took 100 s; half as much again, and what the fit leaves open.
    assert 150.0 <= after.spec.round.deadline_s <= 250.0
    assert after.deadline_at - after.opened_at == timedelta(seconds=after.spec.round.deadline_s)


async def test_passes_read_the_rows_that_windows_follow_and_check_ins_read_none(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    phones = [await harness.enrol() for _ in range(50)]
    devices, asked = harness.store.devices, 0
    count = devices.count_active

    async def counted(population: PopulationName, since: datetime) -> ActiveDevices:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return await count(population, since)

    devices.count_active = counted  # type: ignore[method-assign]  # it tells
    for _ in range(3):
        await asyncio.gather(*(harness.check_in(phone) for phone in phones))
        await harness.coordinator.tick()
        harness.pass_time(31.0)

    assert asked == 2 * 2  # of the day, and of the hour; the pass that opened the round had read them


async def test_counts_that_could_not_be_written_are_written_later(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    await harness.check_in(await harness.enrol())
    add, town_arrivals = harness.store.arrivals.add, harness.store.arrivals

    async def away(_: Sequence[ArrivalCount]) -> None:
        raise StorageUnavailable("The database cannot be used now.")

    harness.pass_time(61.0)
    town_arrivals.add = away  # type: ignore[assignment, method-assign]  # for a while
    await harness.coordinator.tick()
    unwritten = await town_arrivals.since(TaskName("t"), 0)
    town_arrivals.add = add  # type: ignore[method-assign]  # it is back
    await harness.coordinator.tick()

    hour = hour_of(harness.now.timestamp())
    (written,) = await town_arrivals.since(TaskName("t"), hour)
    assert unwritten == []
    assert written.check_ins == 1
