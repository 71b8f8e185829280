"""Buffered asynchronous rounds: whatever arrives counts, less the older its model is."""

import math

import numpy as np
import pytest
from tests.unit.coordinator.town import Town, constant, report

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
from keyflock_server.protocol.problems import ProblemCode, Refused

T = TaskName("t")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


async def cohort(town: Town, size: int) -> list[AssignmentClaims]:
    return [await town.assigned(await town.enrol()) for _ in range(size)]


async def send(town: Town, claims: AssignmentClaims, value: float) -> Receipt | ProblemCode:
    try:
        return await town.coordinator.report(claims, report(constant(value), of=claims))
    except Refused as refused:
        return refused.code


async def fill(town: Town, claims: list[AssignmentClaims], value: float) -> None:
    for one in claims:
        await send(town, one, value)
    await town.coordinator.tick()


async def test_every_buffer_full_of_reports_makes_a_version(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 8)

    await fill(town, claims[:4], 1.0)
    later = await cohort(town, 4)
    await fill(town, later, 1.0)

    first, second, third = await town.coordinator.rounds(T)
    assert [one.result_version for one in (first, second, third)] == [1, 2, None]
    assert (second.counted, second.weight) == (4, 4.0)
    np.testing.assert_array_equal(await town.model(2), constant(-2.0))


async def test_a_report_from_an_older_model_weighs_less(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 8)
    await fill(town, claims[:4], 1.0)
    fresh = await cohort(town, 3)

    await fill(town, [claims[4], *fresh], 1.0)

    (_, closed, _) = await town.coordinator.rounds(T)
    assert closed.weight == pytest.approx(3.0 + 1.0 / math.sqrt(2.0))
    row = await town.store.rounds.assignment(RoundId("t-1"), claims[4].device)
    assert row is not None
    assert row.counted_in == "t-2"


async def test_a_report_that_is_too_stale_is_refused_and_its_offer_dropped(town: Town) -> None:
    await town.task(round=BUFFER + "\nmax_staleness = 0")
    claims = await cohort(town, 8)
    await fill(town, claims[:4], 1.0)

    message = Offer(model_version=ModelVersion(0), size_bytes=10)
    offered = await town.coordinator.offer(claims[4], message)
    answer = await send(town, claims[4], 1.0)

    assert offered.action is OfferAction.DROP
    assert answer is ProblemCode.ROUND_GONE


async def test_a_repeated_report_is_a_duplicate_also_after_its_buffer_has_closed(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 5)
    await fill(town, claims[:4], 1.0)

    again = await send(town, claims[0], 1.0)
    other = await send(town, claims[0], 2.0)

    assert isinstance(again, Receipt)
    assert again.duplicate
    assert other is ProblemCode.REPORT_CONFLICT


async def test_a_device_keeps_its_assignment_over_buffers_until_it_expires(town: Town) -> None:
    await town.task(round=BUFFER)
    identity = await town.enrol()
    mine = await town.assigned(identity)
    await fill(town, await cohort(town, 4), 1.0)

    again = await town.assigned(identity)
    town.pass_time(1001.0)
    await town.coordinator.tick()
    anew = await town.assigned(identity)

    assert (again.assignment, again.round, again.model_version) == (mine.assignment, "t-1", 0)
    assert (anew.round, anew.model_version) == ("t-2", 1)


async def test_no_more_devices_train_at_once_than_the_task_wants(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 12)
    identity = await town.enrol()

    refused = await town.check_in(identity)
    await town.coordinator.failure(claims[0], Failure(cause=FailureCause.INTERRUPTED))
    town.pass_time(75.0)
    taken = await town.assigned(identity)

    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.ROUND_FULL
    assert taken.round == "t-1"


async def test_a_free_place_is_for_whoever_comes_next_however_many_there_are(town: Town) -> None:
    await town.task(round=BUFFER)
    everyone = [await town.enrol() for _ in range(100)]

    first = [await town.check_in(identity) for identity in everyone[:12]]
    full = await town.check_in(everyone[12])

    assert all(isinstance(answer, Assignment) for answer in first)
    assert isinstance(full, Refusal)
    assert full.reason is RefusalReason.ROUND_FULL


async def test_reports_that_come_too_late_for_a_buffer_wait_for_the_next(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 12)

    answers = [await send(town, one, 1.0) for one in claims[:6]]
    await town.coordinator.tick()
    answers += [await send(town, one, 1.0) for one in claims[6:8]]
    await town.coordinator.tick()

    assert [isinstance(answer, Receipt) for answer in answers[:4]] == [False, False, False, True]
    first, second, _ = await town.coordinator.rounds(T)
    assert (first.counted, second.counted) == (4, 4)
    assert isinstance(await send(town, claims[4], 1.0), Receipt)


async def test_a_buffer_is_never_abandoned(town: Town) -> None:
    await town.task(round=BUFFER)
    await cohort(town, 4)
    town.pass_time(100_000.0)

    await town.coordinator.tick()

    (current,) = await town.coordinator.rounds(T)
    assert current.phase == "collecting"


async def test_cancelling_tells_those_who_wait(town: Town) -> None:
    await town.task(round=BUFFER)
    claims = await cohort(town, 2)
    await send(town, claims[0], 1.0)

    await town.coordinator.cancel_task(T)
    answer = await send(town, claims[0], 1.0)

    assert answer is ProblemCode.ROUND_GONE
    (cancelled,) = await town.coordinator.rounds(T)
    assert cancelled.phase == "cancelled"
