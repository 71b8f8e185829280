"""Phones that send ten times, or that lie: the sum is what it should be."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode

if TYPE_CHECKING:
    from keyflock_server.coordinator import Coordinator
    from keyflock_server.identity.claims import AssignmentClaims

T = TaskName("t")


async def sent(replica: Coordinator, claims: AssignmentClaims, value: float) -> Receipt | ProblemCode:
    try:
        return await replica.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


async def two_replicas(harness: CoordinatorHarness) -> tuple[Coordinator, Coordinator]:
    first, second = harness.another_coordinator("a"), harness.another_coordinator("b")
    for one in (first, second):
        await one.start()
    harness.coordinator = first
    await harness.task(round="goal = 8\nover_selection = 0.0")
    await second.tick()
    return first, second


async def test_a_phone_that_uploads_the_same_ten_times_at_once_over_two_replicas_is_counted_once(
    harness: CoordinatorHarness,
) -> None:
    replicas = await two_replicas(harness)
    hasty, *others = [await harness.assigned(await harness.enrol()) for _ in range(8)]

    first = await asyncio.gather(*(sent(replicas[number % 2], hasty, 8.0) for number in range(10)))
    for number, one in enumerate(others):
        await sent(replicas[number >= 3], one, 24.0)
    again = [await sent(replicas[number % 2], hasty, 8.0) for number in range(10)]
    for replica in replicas:
        await replica.tick()

    closed = (await listed_rounds(replicas[0], T))[0]
    assert first == [ProblemCode.REPORT_PENDING] * 10
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 10
    assert (closed.phase, closed.counted, closed.weight) == ("closed", 8, 8.0)
    np.testing.assert_array_equal(await harness.model(1), constant(-22.0))
    for replica in replicas:
        await replica.stop()


async def test_of_ten_different_uploads_for_one_assignment_one_is_counted_and_nine_are_conflicts(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    fickle, *others = [await harness.assigned(await harness.enrol()) for _ in range(4)]

    first = await asyncio.gather(*(sent(harness.coordinator, fickle, float(value)) for value in range(1, 11)))
    for one in others:
        await sent(harness.coordinator, one, 10.0)
    await harness.coordinator.tick()
    afterwards = [await sent(harness.coordinator, fickle, float(value)) for value in range(1, 11)]

    assert first.count(ProblemCode.REPORT_CONFLICT) == 9
    (taken,) = [value for value, one in enumerate(afterwards, 1) if isinstance(one, Receipt)]
    assert first[taken - 1] is ProblemCode.REPORT_PENDING
    np.testing.assert_array_equal(await harness.model(1), constant(-(30 + taken) / 4))


@pytest.mark.parametrize("claimed", [1, 256, 257, 100_000, 2**31 - 1])
async def test_a_phone_that_lies_about_its_examples_weighs_no_more_than_the_cap(
    harness: CoordinatorHarness, claimed: int
) -> None:
    await harness.task(
        round="goal = 4\nover_selection = 0.0", aggregation="example_cap = 16\nclip_norm_ratio = 0.0"
    )
    liar, *honest = [await harness.assigned(await harness.enrol()) for _ in range(4)]

    refused = None
    try:
        await harness.coordinator.reports.report(liar, report(constant(1.0), examples=claimed, of=liar))
    except ApiError as error:
        refused = error.code
    if refused is ProblemCode.TOO_MANY_EXAMPLES:  # it thinks better of it
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(liar, report(constant(1.0), examples=256, of=liar))
    for one in honest:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(2.0), examples=16, of=one))
    await harness.coordinator.tick()

    weight = 1 if claimed == 1 else 16
    closed = (await listed_rounds(harness.coordinator, T))[0]
    assert (refused is ProblemCode.TOO_MANY_EXAMPLES) == (claimed > 256)
    assert (closed.phase, closed.weight) == ("closed", 48.0 + weight)
    np.testing.assert_allclose(await harness.model(1), constant(-(96 + weight) / (48 + weight)), rtol=2e-2)
