"""The clock jumps while a round is under way: nothing is counted twice or lost, and nothing hangs."""

import numpy as np
import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import Assignment, Receipt, Refusal
from keyflock_server.protocol.problems import ApiError, ProblemCode

DAY_S, HOUR_S = 86_400.0, 3_600.0
T = TaskName("t")
JUMPS = pytest.mark.parametrize(
    "jump_s", [DAY_S, -HOUR_S, -DAY_S], ids=["a day on", "an hour back", "a day back"]
)


@pytest.fixture
async def harness(harness: CoordinatorHarness) -> CoordinatorHarness:
    """A round that wants eight phones within ten minutes."""
    await harness.task(round="goal = 8\ndeadline_s = 600.0\nover_selection = 0.0")
    return harness


async def cohort(harness: CoordinatorHarness, size: int) -> list[AssignmentClaims]:
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(
    harness: CoordinatorHarness, claims: AssignmentClaims, value: float = 1.0
) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


@JUMPS
async def test_what_was_counted_before_the_jump_is_counted_once_and_the_model_goes_on(
    harness: CoordinatorHarness, jump_s: float
) -> None:
    before = await cohort(harness, 8)
    for one in before[:4]:
        await send(harness, one)
    harness.pass_time(jump_s)
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    again = [await send(harness, one) for one in before[:4]]
    late = [await send(harness, one) for one in before[4:]]
    if not isinstance(late[-1], Receipt):  # their time is over: others come
        for one in await cohort(harness, 4):
            await send(harness, one)
    await harness.coordinator.tick()

    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 4
    rounds = await listed_rounds(harness.coordinator, T)
    closed = [one for one in rounds if one.phase == "closed"]
    assert [(one.counted + one.carried, one.weight) for one in closed] == [(8, 8.0)]
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


@pytest.mark.parametrize("jump_s", [-HOUR_S, -DAY_S])
async def test_phones_that_train_while_the_clock_is_set_back_may_still_report(
    harness: CoordinatorHarness, jump_s: float
) -> None:
    claims = await cohort(harness, 8)
    harness.pass_time(jump_s)
    await harness.coordinator.tick()

    for one in claims:
        await send(harness, one)
    await harness.coordinator.tick()

    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == ["closed", "collecting"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_began_while_the_clock_was_a_day_ahead_does_not_wait_a_day(mode: str) -> None:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population()
    harness.pass_time(DAY_S)
    lines = f'mode = "{mode}"\ngoal = 4\ndeadline_s = 600.0\nselection_s = 60.0'
    await harness.task(round=lines + ("\nconcurrency = 4" if mode == "async" else "\non_miss = 'abandon'"))
    await cohort(harness, 4)  # they take all places, and are never heard of again

    harness.pass_time(-DAY_S)
    for _ in range(12):
        harness.pass_time(60.0)
        await harness.coordinator.tick()
    claims = await cohort(harness, 4)
    answers = [await send(harness, one) for one in claims]
    await harness.coordinator.tick()

    assert isinstance(answers[-1], Receipt)
    assert (await listed_rounds(harness.coordinator, T))[-2].phase == "closed"
    await harness.coordinator.stop()


@JUMPS
async def test_phones_are_told_to_return_at_a_sensible_time(
    harness: CoordinatorHarness, jump_s: float
) -> None:
    everyone = [await harness.enrol() for _ in range(20)]
    for one in everyone:
        await harness.check_in(one)

    harness.pass_time(jump_s)
    await harness.coordinator.tick()
    answers = [
        await harness.check_in(DeviceIdentity(DeviceId(one.device), one.population)) for one in everyone
    ]

    windows = [one.return_window for one in answers if isinstance(one, Refusal)]
    assert all(0.0 < one.min_s <= one.max_s <= DAY_S for one in windows)
    assert all(0.0 < one.expires_in_s <= 2 * DAY_S for one in answers if isinstance(one, Assignment))


@pytest.mark.parametrize("ahead_s", [HOUR_S, DAY_S])
async def test_a_leader_whose_clock_was_ahead_dies_and_another_leads_at_once(ahead_s: float) -> None:
    harness = CoordinatorHarness()
    leader, other = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.pass_time(ahead_s)
    await leader.start()
    harness.pass_time(-ahead_s)
    await other.start()
    harness.coordinator = other
    await harness.create_population()

    await harness.task(round="goal = 4")

    assert [one.phase for one in await listed_rounds(other, T)] == ["collecting"]
    for one in (leader, other):
        await one.stop()
