"""What other processes did to a device is known one pass later, and to a slot's transaction at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_check_in import refusal

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.device_activity import Silences
from keyflock_server.coordinator.device_sync import DeviceSync
from keyflock_server.coordinator.seen_devices import SeenDevices
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import CheckIn, RefusalReason
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.errors import StorageUnavailable

T = TaskName("t")
ALONE = "goal = 4\nmin_flush_clients = 1\nunsafe_single_flush = true\nover_selection = 0.5"


@pytest.fixture
async def replicas(harness: CoordinatorHarness) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """Start two processes over one store, of which the first one leads; the harness's is the first."""
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    yield here, there
    for one in (here, there):
        await one.stop()


async def contribute(harness: CoordinatorHarness, device: DeviceIdentity) -> None:
    claims = await harness.assigned(device)
    receipt = await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
    assert receipt.counted


async def open_next_round(harness: CoordinatorHarness, *replicas: Coordinator) -> None:
    """Let the open round miss its deadline, so that nobody is in the next one."""
    harness.pass_time(700.0)
    for one in (*replicas, *replicas):
        await one.tick()


async def test_a_contribution_is_known_at_once_where_it_was_counted_and_elsewhere_one_pass_later(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(round=ALONE, eligibility="min_separation_s = 90000.0")
    await there.tick()
    device = await harness.enrol()
    await contribute(harness, device)

    known = [one._deps.activity.last_contribution(device.device, None) for one in replicas]
    await there.tick()
    later = there._deps.activity.last_contribution(device.device, None)

    assert known == [harness.now, None]
    assert later == harness.now


async def test_the_transaction_refuses_a_contributor_that_memory_does_not_know_and_memory_learns_it(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(round=ALONE, eligibility="min_separation_s = 90000.0")
    device = await harness.enrol()
    await contribute(harness, device)
    await open_next_round(harness, *replicas)
    there._deps.activity._contributed_at.clear()

    harness.coordinator = there
    answer = refusal(await harness.check_in(device))

    assert answer.reason is RefusalReason.TOO_SOON
    assert answer.return_window.min_s == 90_000.0 - 700.0
    assert there._deps.activity.last_contribution(device.device, None) is not None
    assert (await listed_rounds(there, T))[-1].assigned == 0


async def test_a_quarantine_by_another_process_is_known_one_pass_later_and_keeps_slots_at_once(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    here, there = replicas
    await harness.task(round=ALONE, eligibility="min_examples = 5")
    await there.tick()
    device = await harness.enrol()
    await here.quarantines.quarantine(device.device, QuarantineOrder(reason="A test.", days=2), audit=AUDIT)

    harness.coordinator = there
    not_fitting = refusal(await harness.check_in(device, examples=1))
    there.check_ins._early_check_ins.forget(device.device)
    there._deps.activity.set_quarantine(device.device, None)
    sampled = refusal(await harness.check_in(device))
    await here.quarantines.release(device.device, audit=AUDIT)
    await there.tick()
    released = await harness.check_in(device, examples=1)

    assert not_fitting.reason is RefusalReason.NOT_ELIGIBLE  # memory does not know of it yet
    assert (sampled.reason, sampled.return_window.min_s) == (RefusalReason.QUARANTINED, 2 * 86_400.0)
    assert refusal(released).reason is RefusalReason.NOT_ELIGIBLE


async def test_an_operators_quarantine_is_not_undone_by_what_was_read_before_it(
    harness: CoordinatorHarness,
    replicas: tuple[Coordinator, Coordinator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, there = replicas
    kept_out, let_in = [(await harness.enrol()).device for _ in range(2)]
    await there.quarantines.quarantine(let_in, QuarantineOrder(reason="A test."), audit=AUDIT)
    read = harness.store.devices.changed_since

    async def change_behind_the_read(since: datetime, limit: int) -> list[DeviceFacts]:
        rows = await read(since, limit)
        await there.quarantines.quarantine(kept_out, QuarantineOrder(reason="A test.", days=2), audit=AUDIT)
        await there.quarantines.release(let_in, audit=AUDIT)
        return rows

    monkeypatch.setattr(harness.store.devices, "changed_since", change_behind_the_read)
    await there._device_sync.refresh()
    known = [there._deps.activity.quarantined_until(one, harness.now) for one in (kept_out, let_in)]

    assert known == [harness.now + timedelta(days=2), None]


async def test_silences_are_counted_in_every_process(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    here, there = replicas
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    await there.tick()
    device = await harness.enrol()
    await harness.assigned(device)
    harness.pass_time(700.0)
    await here.tick()
    known_here = here._deps.activity.silences(device.device)
    known_there = there._deps.activity.silences(device.device)
    await there.tick()

    assert known_here == Silences(1, harness.now - timedelta(seconds=100.0))
    assert known_there is None
    assert there._deps.activity.silences(device.device) == known_here


async def test_a_silence_is_known_elsewhere_however_long_reports_may_wait(
    harness: CoordinatorHarness,
) -> None:
    harness.ack_wait_s = 60.0
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    device = await harness.enrol()
    await harness.assigned(device)
    harness.pass_time(700.0)
    await here._leadership.renew()
    await there.tick()
    harness.pass_time(6.0)
    await here.tick()
    await there.tick()

    assert there._deps.activity.silences(device.device) == Silences(1, harness.now - timedelta(seconds=106.0))
    for one in (here, there):
        await one.stop()


async def test_who_is_not_enrolled_any_more_is_told_when_it_would_get_a_slot(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(eligibility="min_examples = 5")
    await there.tick()
    device = await harness.enrol()
    await harness.forget(device)

    harness.coordinator = there
    with pytest.raises(ApiError) as refused:
        await harness.check_in(device)

    assert refused.value.code is ProblemCode.TOKEN_INVALID


async def test_a_lost_answer_is_repeated_by_another_process_even_before_its_pass(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(round="goal = 4\nover_selection = 0.0")
    await there.tick()
    device = await harness.enrol()
    first = await harness.assigned(device)

    harness.coordinator = there
    again = await harness.assigned(device)

    assert again.assignment == first.assignment
    assert (await listed_rounds(there, T))[0].assigned == 1


async def test_an_unknown_device_of_a_full_round_is_refused_without_asking_for_its_assignment(
    harness: CoordinatorHarness,
    replicas: tuple[Coordinator, Coordinator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, there = replicas
    await harness.task(round="goal = 4\nover_selection = 0.0")
    members = [await harness.enrol() for _ in range(4)]
    first = [await harness.assigned(one) for one in members]
    await there.tick()

    async def fail(*_: object) -> Any:  # noqa: ANN401 - whatever the call would return
        raise StorageUnavailable("It was asked.")

    harness.coordinator = there
    with monkeypatch.context() as closed:
        closed.setattr(harness.store.assignments, "get", fail)
        answer = refusal(await harness.check_in(await harness.enrol()))
    again = [await harness.assigned(one) for one in members]

    assert answer.reason is RefusalReason.ROUND_FULL
    assert [one.assignment for one in again] == [one.assignment for one in first]


async def test_a_process_that_starts_knows_what_happened_since_tokens_were_issued(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=ALONE, eligibility="min_separation_s = 90000.0")
    contributor, kept_out, member = [await harness.enrol() for _ in range(3)]
    await contribute(harness, contributor)
    await harness.coordinator.quarantines.quarantine(
        kept_out.device, QuarantineOrder(reason="A test."), audit=AUDIT
    )
    given = await harness.assigned(member)

    restarted = harness.another_coordinator()
    await restarted.start()
    harness.coordinator = restarted
    answers = [refusal(await harness.check_in(one)).reason for one in (contributor, kept_out)]
    again = await harness.assigned(member)

    # The first is in the round; its contribution is known all the same.
    assert answers == [RefusalReason.TOO_SOON, RefusalReason.QUARANTINED]
    assert restarted._deps.activity.last_contribution(contributor.device, None) == harness.now
    assert again.assignment == given.assignment


async def test_a_process_that_is_alone_reads_nothing_of_devices_at_its_passes(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task()
    asked = []

    async def note(*what: object) -> list[DeviceFacts]:
        asked.append(what)
        return []

    monkeypatch.setattr(harness.store.devices, "changed_since", note)
    harness.pass_time(10.0)
    await harness.coordinator.tick()

    assert asked == []


@pytest.mark.parametrize(("rows", "pause_s"), [(1_000, 0.0), (1_500, 0.3), (20_000, 4.0), (60_000, 10.0)])
async def test_the_more_changes_were_read_the_later_is_the_next_reading(
    harness: CoordinatorHarness,
    replicas: tuple[Coordinator, Coordinator],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    pause_s: float,
) -> None:
    _, there = replicas
    asked = []

    async def many(*what: object) -> list[DeviceFacts]:
        asked.append(what)
        return [DeviceFacts(device=DeviceId("a"))] * rows

    monkeypatch.setattr(harness.store.devices, "changed_since", many)
    sync = DeviceSync(there._deps, there.registry)
    for _ in range(2):
        await sync.refresh()
    for _ in range(9):
        harness.pass_time(pause_s / 10.0)
        await sync.refresh()
    within = len(asked)
    harness.pass_time(pause_s / 10.0)
    await sync.refresh()

    assert within == (2 if pause_s else 11)  # at the start, and at the next pass
    assert len(asked) == within + 1


async def test_phones_are_answered_between_the_pages_of_a_long_reading(
    harness: CoordinatorHarness,
    replicas: tuple[Coordinator, Coordinator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, there = replicas
    adopted: list[DeviceFacts] = []
    known_between: list[int] = []

    async def many(*_: object) -> list[DeviceFacts]:
        return [DeviceFacts(device=DeviceId(f"d{number}")) for number in range(2_000)]

    async def phone() -> None:
        while len(adopted) < 2_000:
            known_between.append(len(adopted))
            await asyncio.sleep(0)

    monkeypatch.setattr(harness.store.devices, "changed_since", many)
    monkeypatch.setattr(there._deps.activity, "adopt", lambda facts, **_: adopted.append(facts))
    visits = asyncio.create_task(phone())
    await DeviceSync(there._deps, there.registry).refresh()
    await visits

    assert {500, 1_000, 1_500} <= set(known_between)


async def test_a_token_that_does_not_describe_its_device_costs_one_reading_of_the_row(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(eligibility="cohort = 'tier == 3'")
    told = await harness.enrol(tier=3)
    untold = DeviceIdentity(told.device, POPULATION)
    asked, get = [], harness.store.devices.get

    async def count(device: DeviceId) -> Any:  # noqa: ANN401 - handed on as it came
        asked.append(device)
        return await get(device)

    monkeypatch.setattr(harness.store.devices, "get", count)
    claims = [await harness.assigned(untold) for _ in range(3)]
    with pytest.raises(ApiError) as void:
        await harness.check_in(replace(untold, device=DeviceId("nobody")))

    assert len({one.assignment for one in claims}) == 1
    assert asked == [told.device, "nobody"]
    assert void.value.code is ProblemCode.TOKEN_INVALID


async def test_devices_that_could_not_be_written_as_seen_are_written_by_the_next_pass(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, device = SeenDevices(harness.coordinator._deps), await harness.enrol()
    harness.pass_time(5.0)
    message = CheckIn(protocol=1, app_build=6, locale="de", examples=1)
    seen.note(device.device, message, harness.now, harness.now.timestamp())

    async def away(*_: object) -> None:
        raise StorageUnavailable("The database cannot be used now.")

    with monkeypatch.context() as closed:
        closed.setattr(harness.store.devices, "record_seen", away)
        with pytest.raises(StorageUnavailable):
            await seen.write()
    await seen.write()

    row = await harness.store.devices.get(device.device)
    assert row is not None
    assert (row.app_build, row.locale, row.last_seen_at) == (6, "de", harness.now)
