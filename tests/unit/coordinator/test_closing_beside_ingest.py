"""While one task's round closes, another task's reports are decoded, committed and acknowledged."""

import asyncio
import contextlib
import threading
from typing import Any

from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import Assignment, CheckIn, EnrolRequest, Receipt
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.stored_task import with_ids

T, OTHER = TaskName("t"), TaskName("other")
DE = PopulationName("de")


async def other_task(harness: CoordinatorHarness, coordinator: Coordinator) -> None:
    """Create a task of another population."""
    await harness.create_other_population(DE)
    await coordinator.tasks.create(with_ids(task_spec(), OTHER, DE), audit=AUDIT)


async def work_for(
    harness: CoordinatorHarness, coordinator: Coordinator, population: PopulationName
) -> list[AssignmentClaims]:
    """Return the assignments of four new devices."""
    found = []
    for _ in range(4):
        enrolment = EnrolRequest(protocol=1, population=population, app_build=5, locale="en-US")
        enrolled = await coordinator.enrolments.enrol(enrolment, None)
        message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10)
        answer = await coordinator.check_ins.check_in(DeviceIdentity(enrolled.device, population), message)
        assert isinstance(answer, Assignment), answer
        found.append(harness.claims(answer))
    return found


async def send(coordinator: Coordinator, work: list[AssignmentClaims]) -> list[Receipt]:
    """Send a report for each of these assignments, and once more: the first ones wait for the last."""
    for one in work:
        with contextlib.suppress(ApiError):
            await coordinator.reports.report(one, report(constant(1.0), of=one))
    return [await coordinator.reports.report(one, report(constant(1.0), of=one)) for one in work]


async def test_another_tasks_reports_are_acknowledged_while_a_round_closes(
    harness: CoordinatorHarness,
) -> None:
    coordinator = harness.coordinator
    await harness.task()
    await other_task(harness, coordinator)
    await coordinator.tick()
    await send(coordinator, await work_for(harness, coordinator, POPULATION))
    other_work = await work_for(harness, coordinator, DE)
    lane: Any = coordinator._deps.closing
    run, has_begun, may_go_on = lane.run, asyncio.Event(), threading.Event()

    async def run_later(*work: object) -> object:
        has_begun.set()
        await run(may_go_on.wait)
        return await run(*work)

    lane.run = run_later
    closing = asyncio.create_task(coordinator.tick())
    await has_begun.wait()
    receipts = await send(coordinator, other_work)

    assert [one.counted for one in receipts] == [True] * 4
    assert (await listed_rounds(coordinator, T))[0].phase is Phase.CLOSING
    may_go_on.set()
    await closing
    assert (await listed_rounds(coordinator, T))[0].phase is Phase.CLOSED


async def test_a_report_for_another_replicas_round_does_not_wait_for_one_that_closes_here(
    harness: CoordinatorHarness,
) -> None:
    leader, replica = (harness.another_coordinator(name) for name in ("a", "b"))
    await leader.start()
    await leader.tasks.create(task_spec(), audit=AUDIT)
    await other_task(harness, leader)
    await replica.start()
    await leader.tick()
    work = await work_for(harness, leader, DE)

    async with (await replica.registry.get(T)).round_lock:  # as while it closes
        receipts = await send(replica, work)

    assert [one.counted for one in receipts] == [True] * 4
    await replica.stop()
    await leader.stop()


async def test_a_pass_over_tasks_without_pending_reports_wakes_no_thread(harness: CoordinatorHarness) -> None:
    await harness.task()
    compute: Any = harness.coordinator._deps.compute
    work: list[object] = []

    async def run(*what: object) -> None:
        work.append(what)

    compute.run = run
    await harness.coordinator.tick()

    assert work == []


async def test_a_process_that_stops_closes_its_store_whatever_the_closing_thread_is_at(
    harness: CoordinatorHarness,
) -> None:
    may_end, is_closed = threading.Event(), asyncio.Event()
    close = harness.store.close

    async def note_and_close() -> None:
        await close()
        is_closed.set()

    harness.store.close = note_and_close  # type: ignore[method-assign]  # this once
    harness.coordinator._deps.closing.submit(lambda _result, _error: None, may_end.wait)

    stopping = asyncio.create_task(harness.coordinator.stop())
    try:
        async with asyncio.timeout(60.0):
            await is_closed.wait()
    finally:
        may_end.set()
    await stopping
