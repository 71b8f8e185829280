"""The clock jumps while a round is under way: nothing is counted twice or lost, and nothing hangs."""

import numpy as np
import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import Assignment, Receipt, Refusal
from keyflock_server.protocol.problems import ProblemCode, Refused

DAY_S, HOUR_S = 86_400.0, 3_600.0
T = TaskName("t")
JUMPS = pytest.mark.parametrize(
    "jump_s", [DAY_S, -HOUR_S, -DAY_S], ids=["a day on", "an hour back", "a day back"]
)


@pytest.fixture
async def town(town: Town) -> Town:
    """A round that wants eight phones within ten minutes."""
    await town.task(round="goal = 8\ndeadline_s = 600.0\nover_selection = 0.0")
    return town


async def cohort(town: Town, size: int) -> list[AssignmentClaims]:
    return [await town.assigned(await town.enrol()) for _ in range(size)]


async def send(town: Town, claims: AssignmentClaims, value: float = 1.0) -> Receipt | ProblemCode:
    try:
        return await town.coordinator.report(claims, report(constant(value), of=claims))
    except Refused as refused:
        return refused.code


@JUMPS
async def test_what_was_counted_before_the_jump_is_counted_once_and_the_model_goes_on(
    town: Town, jump_s: float
) -> None:
    before = await cohort(town, 8)
    for one in before[:4]:
        await send(town, one)
    town.pass_time(jump_s)
    await town.coordinator.tick()
    await town.coordinator.tick()

    again = [await send(town, one) for one in before[:4]]
    late = [await send(town, one) for one in before[4:]]
    if not isinstance(late[-1], Receipt):  # their time is over: others come
        for one in await cohort(town, 4):
            await send(town, one)
    await town.coordinator.tick()

    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 4
    rounds = await town.coordinator.rounds(T)
    closed = [one for one in rounds if one.phase == "closed"]
    assert [(one.counted + one.carried, one.weight) for one in closed] == [(8, 8.0)]
    np.testing.assert_array_equal(await town.model(1), constant(-1.0))


@pytest.mark.parametrize("jump_s", [-HOUR_S, -DAY_S])
async def test_phones_that_train_while_the_clock_is_set_back_may_still_report(
    town: Town, jump_s: float
) -> None:
    claims = await cohort(town, 8)
    town.pass_time(jump_s)
    await town.coordinator.tick()

    for one in claims:
        await send(town, one)
    await town.coordinator.tick()

    assert [one.phase for one in await town.coordinator.rounds(T)] == ["closed", "collecting"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_began_while_the_clock_was_a_day_ahead_does_not_wait_a_day(mode: str) -> None:
    town = Town()
    await town.coordinator.start()
    await town.found()
    town.pass_time(DAY_S)
    lines = f'mode = "{mode}"\ngoal = 4\ndeadline_s = 600.0\nselection_s = 60.0'
    await town.task(round=lines + ("\nconcurrency = 4" if mode == "async" else "\non_miss = 'abandon'"))
    await cohort(town, 4)  # they take all places, and are never heard of again

    town.pass_time(-DAY_S)
    for _ in range(12):
        town.pass_time(60.0)
        await town.coordinator.tick()
    claims = await cohort(town, 4)
    answers = [await send(town, one) for one in claims]
    await town.coordinator.tick()

    assert isinstance(answers[-1], Receipt)
    assert (await town.coordinator.rounds(T))[-2].phase == "closed"
    await town.coordinator.stop()


@JUMPS
async def test_phones_are_told_to_return_at_a_sensible_time(town: Town, jump_s: float) -> None:
    everyone = [await town.enrol() for _ in range(20)]
    for one in everyone:
        await town.check_in(one)

    town.pass_time(jump_s)
    await town.coordinator.tick()
    answers = [await town.check_in(DeviceIdentity(DeviceId(one.device), one.population)) for one in everyone]

    windows = [one.return_window for one in answers if isinstance(one, Refusal)]
    assert all(0.0 < one.min_s <= one.max_s <= DAY_S for one in windows)
    assert all(0.0 < one.expires_in_s <= 2 * DAY_S for one in answers if isinstance(one, Assignment))


@pytest.mark.parametrize("ahead_s", [HOUR_S, DAY_S])
async def test_a_leader_whose_clock_was_ahead_dies_and_another_leads_at_once(ahead_s: float) -> None:
    town = Town()
    leader, other = (town.another_coordinator(name) for name in ("a", "b"))
    town.pass_time(ahead_s)
    await leader.start()
    town.pass_time(-ahead_s)
    await other.start()
    town.coordinator = other
    await town.found()

    await town.task(round="goal = 4")

    assert [one.phase for one in await other.rounds(T)] == ["collecting"]
    for one in (leader, other):
        await one.stop()
