"""Acked means counted, also for a phone that never heard the acknowledgement and asks much later."""

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode

DAY_S = 86_400.0
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


async def send(
    harness: CoordinatorHarness, claims: AssignmentClaims, value: float = 1.0
) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


@MODES
async def test_a_report_that_was_counted_is_acknowledged_again_days_after_its_deadline(
    harness: CoordinatorHarness, mode: str
) -> None:
    await harness.task(round=f'mode = "{mode}"\ngoal = 4')
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    for one in claims:
        await send(harness, one)
    harness.pass_time(3 * DAY_S)
    await harness.coordinator.tick()

    again = await send(harness, claims[0])
    other = await send(harness, claims[0], 2.0)

    assert isinstance(again, Receipt)
    assert (again.counted, again.duplicate) == (True, True)
    assert other is ProblemCode.REPORT_CONFLICT
    assert (await harness.coordinator.tasks.round(claims[0].round)).counted == 4


@MODES
async def test_a_report_that_comes_after_its_deadline_for_the_first_time_is_not_taken(
    harness: CoordinatorHarness, mode: str
) -> None:
    await harness.task(round=f'mode = "{mode}"\ngoal = 4\ndeadline_s = 600.0')
    (claims,) = [await harness.assigned(await harness.enrol())]
    harness.pass_time(605.0)

    assert await send(harness, claims) is ProblemCode.ROUND_GONE
    assert (await harness.coordinator.tasks.round(claims.round)).counted == 0


async def test_a_buffers_report_that_waits_for_others_is_acknowledged_though_its_assignment_expired(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round='mode = "async"\ngoal = 4\ndeadline_s = 600.0')
    early = await harness.assigned(await harness.enrol())
    assert await send(harness, early) is ProblemCode.REPORT_PENDING
    harness.pass_time(605.0)
    late = [await harness.assigned(await harness.enrol()) for _ in range(3)]

    while_it_waits = await send(harness, early)
    for one in late:
        await send(harness, one)
    answer = await send(harness, early)

    assert while_it_waits is ProblemCode.REPORT_PENDING
    assert isinstance(answer, Receipt)
    assert answer.duplicate


async def test_a_report_that_another_replica_counted_is_acknowledged_where_the_goal_is_met(
    harness: CoordinatorHarness,
) -> None:
    leader, other = (harness.another_coordinator(name) for name in ("a", "b"))
    for replica in (leader, other):
        await replica.start()
    harness.coordinator = leader
    await harness.task(round="goal = 4\nover_selection = 0.0")
    harness.coordinator = other
    await other.tick()
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    harness.coordinator = leader
    for one in claims:
        await send(harness, one)

    await other.tick()  # it learns that the goal is met, and remembers its own four as under way
    harness.coordinator = other
    again = [await send(harness, one) for one in claims]

    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 4
    for replica in (leader, other):
        await replica.stop()
