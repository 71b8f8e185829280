"""Buffered asynchronous rounds: whatever arrives counts, less the older its model is."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Failure,
    FailureCause,
    Offer,
    OfferAction,
    Receipt,
    Refusal,
    RefusalReason,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.interfaces.group_writer import Operation, OperationOutcome

T = TaskName("t")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


async def cohort(harness: CoordinatorHarness, size: int) -> list[AssignmentClaims]:
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(harness: CoordinatorHarness, claims: AssignmentClaims, value: float) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


async def fill(harness: CoordinatorHarness, claims: list[AssignmentClaims], value: float) -> None:
    for one in claims:
        await send(harness, one, value)
    await harness.coordinator.tick()


async def test_every_buffer_full_of_reports_makes_a_version(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 8)

    await fill(harness, claims[:4], 1.0)
    later = await cohort(harness, 4)
    await fill(harness, later, 1.0)

    first, second, third = await listed_rounds(harness.coordinator, T)
    assert [one.result_version for one in (first, second, third)] == [1, 2, None]
    assert (second.counted, second.weight) == (4, 4.0)
    np.testing.assert_array_equal(await harness.model(2), constant(-2.0))


async def test_a_report_from_an_older_model_weighs_less(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 8)
    await fill(harness, claims[:4], 1.0)
    fresh = await cohort(harness, 3)

    await fill(harness, [claims[4], *fresh], 1.0)

    (_, closed, _) = await listed_rounds(harness.coordinator, T)
    assert closed.weight == pytest.approx(3.0 + 1.0 / math.sqrt(2.0))
    row = await harness.store.assignments.get(RoundId("t-1"), claims[4].device)
    assert row is not None
    assert row.counted_in == "t-2"


async def test_a_report_that_is_too_stale_is_refused_and_its_offer_dropped(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER + "\nmax_staleness = 0")
    claims = await cohort(harness, 8)
    await fill(harness, claims[:4], 1.0)

    message = Offer(model_version=ModelVersion(0), size_bytes=10)
    offered = await harness.coordinator.reports.offer(claims[4], message)
    answer = await send(harness, claims[4], 1.0)

    assert offered.action is OfferAction.DROP
    assert answer is ProblemCode.ROUND_GONE


async def test_a_repeated_report_is_a_duplicate_also_after_its_buffer_has_closed(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 5)
    await fill(harness, claims[:4], 1.0)

    again = await send(harness, claims[0], 1.0)
    other = await send(harness, claims[0], 2.0)

    assert isinstance(again, Receipt)
    assert again.duplicate
    assert other is ProblemCode.REPORT_CONFLICT


async def test_a_device_keeps_its_assignment_over_buffers_until_it_expires(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    identity = await harness.enrol()
    mine = await harness.assigned(identity)
    await fill(harness, await cohort(harness, 4), 1.0)

    again = await harness.assigned(identity)
    harness.pass_time(1001.0)
    await harness.coordinator.tick()
    anew = await harness.assigned(identity)

    assert (again.assignment, again.round, again.model_version) == (mine.assignment, "t-1", 0)
    assert (anew.round, anew.model_version) == ("t-2", 1)


async def test_a_slot_that_the_store_did_not_answer_for_is_found_over_buffers(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 4)
    device, commit = await harness.enrol(), harness.store.group_writer.commit

    async def commit_and_lose_the_answer(operations: Sequence[Operation]) -> list[OperationOutcome]:
        await commit(operations)
        raise StorageUnavailable("The connection broke.")

    with monkeypatch.context() as patched:
        patched.setattr(harness.store.group_writer, "commit", commit_and_lose_the_answer)
        with pytest.raises(StorageUnavailable):
            await harness.check_in(device)
    for _ in range(2):
        await fill(harness, claims, 1.0)
        claims = await cohort(harness, 4)

    found = await harness.assigned(device)

    assert found.round == "t-1"
    assert await harness.store.assignments.get(RoundId("t-3"), device.device) is None


async def test_no_more_devices_train_at_once_than_the_task_wants(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 12)
    identity = await harness.enrol()

    refused = await harness.check_in(identity)
    await harness.coordinator.reports.failure(claims[0], Failure(cause=FailureCause.INTERRUPTED))
    harness.pass_time(75.0)
    taken = await harness.assigned(identity)

    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.ROUND_FULL
    assert taken.round == "t-1"


async def test_a_free_place_is_for_whoever_comes_next_however_many_there_are(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    everyone = [await harness.enrol() for _ in range(100)]

    first = [await harness.check_in(identity) for identity in everyone[:12]]
    full = await harness.check_in(everyone[12])

    assert all(isinstance(answer, Assignment) for answer in first)
    assert isinstance(full, Refusal)
    assert full.reason is RefusalReason.ROUND_FULL


async def test_reports_that_come_too_late_for_a_buffer_wait_for_the_next(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 12)

    answers = [await send(harness, one, 1.0) for one in claims[:6]]
    await harness.coordinator.tick()
    answers += [await send(harness, one, 1.0) for one in claims[6:8]]
    await harness.coordinator.tick()

    assert [isinstance(answer, Receipt) for answer in answers[:4]] == [False, False, False, True]
    first, second, _ = await listed_rounds(harness.coordinator, T)
    assert (first.counted, second.counted) == (4, 4)
    assert isinstance(await send(harness, claims[4], 1.0), Receipt)


async def test_a_buffer_is_never_abandoned(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    await cohort(harness, 4)
    harness.pass_time(100_000.0)

    await harness.coordinator.tick()

    (current,) = await listed_rounds(harness.coordinator, T)
    assert current.phase == "collecting"


async def test_cancelling_tells_those_who_wait(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 2)
    await send(harness, claims[0], 1.0)

    await harness.coordinator.tasks.cancel(T, audit=AUDIT)
    answer = await send(harness, claims[0], 1.0)

    assert answer is ProblemCode.ROUND_GONE
    (cancelled,) = await listed_rounds(harness.coordinator, T)
    assert cancelled.phase == "cancelled"
