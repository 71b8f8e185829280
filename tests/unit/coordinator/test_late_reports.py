"""Acked means counted, also for a phone that never heard the acknowledgement and asks much later."""

import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ProblemCode, Refused

DAY_S = 86_400.0
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


async def send(town: Town, claims: AssignmentClaims, value: float = 1.0) -> Receipt | ProblemCode:
    try:
        return await town.coordinator.report(claims, report(constant(value), of=claims))
    except Refused as refused:
        return refused.code


@MODES
async def test_a_report_that_was_counted_is_acknowledged_again_days_after_its_deadline(
    town: Town, mode: str
) -> None:
    await town.task(round=f'mode = "{mode}"\ngoal = 4')
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    for one in claims:
        await send(town, one)
    town.pass_time(3 * DAY_S)
    await town.coordinator.tick()

    again = await send(town, claims[0])
    other = await send(town, claims[0], 2.0)

    assert isinstance(again, Receipt)
    assert (again.counted, again.duplicate) == (True, True)
    assert other is ProblemCode.REPORT_CONFLICT
    assert (await town.coordinator.round(claims[0].round)).counted == 4


@MODES
async def test_a_report_that_comes_after_its_deadline_for_the_first_time_is_not_taken(
    town: Town, mode: str
) -> None:
    await town.task(round=f'mode = "{mode}"\ngoal = 4\ndeadline_s = 600.0')
    (claims,) = [await town.assigned(await town.enrol())]
    town.pass_time(605.0)

    assert await send(town, claims) is ProblemCode.ROUND_GONE
    assert (await town.coordinator.round(claims.round)).counted == 0


async def test_a_buffers_report_that_waits_for_others_is_acknowledged_though_its_assignment_expired(
    town: Town,
) -> None:
    await town.task(round='mode = "async"\ngoal = 4\ndeadline_s = 600.0')
    early = await town.assigned(await town.enrol())
    assert await send(town, early) is ProblemCode.REPORT_PENDING
    town.pass_time(605.0)
    late = [await town.assigned(await town.enrol()) for _ in range(3)]

    while_it_waits = await send(town, early)
    for one in late:
        await send(town, one)
    answer = await send(town, early)

    assert while_it_waits is ProblemCode.REPORT_PENDING
    assert isinstance(answer, Receipt)
    assert answer.duplicate


async def test_a_report_that_another_replica_counted_is_acknowledged_where_the_goal_is_met(
    town: Town,
) -> None:
    leader, other = (town.another_coordinator(name) for name in ("a", "b"))
    for replica in (leader, other):
        await replica.start()
    town.coordinator = leader
    await town.task(round="goal = 4\nover_selection = 0.0")
    town.coordinator = other
    await other.tick()
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    town.coordinator = leader
    for one in claims:
        await send(town, one)

    await other.tick()  # it learns that the goal is met, and remembers its own four as under way
    town.coordinator = other
    again = [await send(town, one) for one in claims]

    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 4
    for replica in (leader, other):
        await replica.stop()
