"""A task's name is free again when the task is over; what belongs to the earlier task stays its own."""

import contextlib

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds, listed_tasks

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Offer, OfferAction, Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import TaskRecord

pytestmark = pytest.mark.fault("F14")

T, SECOND = TaskName("t"), TaskName("t~2")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


async def cohort(harness: CoordinatorHarness, size: int) -> list[AssignmentClaims]:
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(coordinator: Coordinator, claims: AssignmentClaims) -> Receipt | ProblemCode:
    try:
        return await coordinator.reports.report(claims, report(constant(1.0), of=claims))
    except ApiError as refused:
        return refused.code


async def refusal(harness: CoordinatorHarness, name: str = "t") -> ApiError:
    with pytest.raises(ApiError) as refused:
        await harness.task(name)
    return refused.value


async def test_a_cancelled_tasks_name_is_free_again_and_means_the_new_task(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)

    await harness.task(round="goal = 8")

    tasks = harness.coordinator.tasks
    now, before = await tasks.get("t"), await tasks.get("t~1")
    assert (now.name, now.id, now.state, now.spec["round"]["goal"]) == ("t", "t~2", "active", 8)
    assert (before.name, before.id, before.state) == ("t~1", "t", "cancelled")
    assert (now.spec["task"]["name"], before.spec["task"]["name"]) == ("t", "t")
    assert await tasks.get("t~2") == now
    assert [one.name for one in await listed_tasks(harness.coordinator)] == ["t~1", "t"]
    assert [(one.id, one.task, one.phase) for one in await listed_rounds(harness.coordinator, "t")] == [
        ("t~2-1", "t", "collecting")
    ]
    assert [(one.id, one.task, one.phase) for one in await listed_rounds(harness.coordinator, "t~1")] == [
        ("t-1", "t~1", "cancelled")
    ]
    assert (await tasks.cancel("t", audit=AUDIT)).id == "t~2"


async def test_the_refusal_to_resume_an_earlier_task_names_it_and_not_the_newest(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    await harness.task()

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.tasks.pause("t~1", audit=AUDIT)

    assert refused.value.code is ProblemCode.CONFLICT
    assert refused.value.detail == "Task 't~1' is cancelled; create a new one."


async def test_a_finished_tasks_name_is_free_again_and_the_next_goes_on_from_its_version(
    harness: CoordinatorHarness,
) -> None:
    for _ in range(3):
        await harness.task(round="goal = 4\nmax_rounds = 1", optimizer='name = "fedavgm"')
        for one in await cohort(harness, 4):
            await send(harness.coordinator, one)
        await harness.coordinator.tick()
        await harness.coordinator.tick()
        harness.pass_time(86_400.0)

    views = await listed_tasks(harness.coordinator)
    assert [(one.name, one.id, one.state) for one in views] == [
        ("t~1", "t", "finished"),
        ("t~2", "t~2", "finished"),
        ("t", "t~3", "finished"),
    ]
    # Each began with a momentum of its own: with the first task's, the third step would be longer.
    np.testing.assert_allclose(await harness.model(3), constant(-3.0), rtol=1e-2)
    keys = [record.optimizer_state_key for record in await harness.store.tasks.all()]
    assert [str(key).split("/")[1] for key in keys] == ["t", "t~2", "t~3"]


@pytest.mark.parametrize("state", ["active", "paused"])
async def test_the_name_of_a_task_that_is_not_over_is_refused_with_what_to_do(
    harness: CoordinatorHarness, state: str
) -> None:
    await harness.task()
    if state == "paused":
        await harness.coordinator.tasks.pause("t", audit=AUDIT)

    refused = await refusal(harness)

    assert refused.code is ProblemCode.CONFLICT
    assert f"'t' already, which is {state}; cancel it first" in refused.detail
    assert [one.id for one in await listed_tasks(harness.coordinator)] == ["t"]


async def test_a_late_report_of_an_earlier_asynchronous_task_is_not_counted_in_the_new_one(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    late, *others = await cohort(harness, 5)
    for one in others:
        await send(harness.coordinator, one)
    await harness.coordinator.tick()
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    await harness.task(round=BUFFER)

    answer = await send(harness.coordinator, late)
    again = await send(harness.coordinator, others[0])
    offered = await harness.coordinator.reports.offer(
        late, Offer(size_bytes=1, model_version=late.model_version)
    )
    fresh = await cohort(harness, 3)
    for one in fresh:
        await send(harness.coordinator, one)
    await harness.coordinator.tick()

    assert answer is ProblemCode.ROUND_GONE
    assert isinstance(again, Receipt)
    assert again.duplicate
    assert offered.action is OfferAction.DROP
    (buffer,) = await listed_rounds(harness.coordinator, "t")
    assert (buffer.id, buffer.phase, buffer.assigned, buffer.counted) == ("t~2-1", "collecting", 3, 0)


async def test_one_phone_has_another_assignment_and_seed_in_each_task_of_a_name(
    harness: CoordinatorHarness,
) -> None:
    phone = await harness.enrol()
    await harness.task()
    first = await harness.assigned(phone)
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    await harness.task()
    harness.pass_time(86_400.0)
    await harness.coordinator.tick()

    second = await harness.assigned(phone)

    assert (first.round, second.task) == ("t-1", SECOND)
    assert first.assignment != second.assignment
    assert first.seed != second.seed
    assert await send(harness.coordinator, first) is ProblemCode.ROUND_GONE


async def test_another_process_works_on_the_new_task_with_the_new_spec() -> None:
    harness = CoordinatorHarness()
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there):
        await replica.start()
    await harness.create_population()
    await harness.task(round=BUFFER)
    (late,) = await cohort(harness, 1)
    await there.tick()

    await here.tasks.cancel("t", audit=AUDIT)
    await here.tasks.create(task_spec(round='mode = "async"\ngoal = 5\ndeadline_s = 1000.0'), audit=AUDIT)
    before = await send(there, late)  # it has not looked yet
    await here.tick()
    await there.tick()
    after = await send(there, late)
    states = {state.task: state.spec.round.goal for state in there.registry}
    harness.coordinator = there
    (claims,) = await cohort(harness, 1)

    assert states == {SECOND: 5}
    # Cancelled elsewhere, the report is summed here at most, and counted nowhere.
    assert before in {ProblemCode.REPORT_PENDING, ProblemCode.ROUND_GONE}
    assert after is ProblemCode.ROUND_GONE
    assert claims.round == "t~2-1"
    assert [one.counted for name in ("t", "t~1") for one in await listed_rounds(here, name)] == [0, 0]
    for replica in (here, there):
        await replica.stop()


async def test_two_processes_that_use_a_name_again_at_once_make_one_task() -> None:
    harness = CoordinatorHarness()
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there):
        await replica.start()
    await harness.create_population()
    await harness.task()
    await here.tasks.cancel("t", audit=AUDIT)
    add = harness.store.tasks.add

    async def late(task: TaskRecord, *, audit: AuditContext) -> None:
        harness.store.tasks.add = add  # type: ignore[method-assign]
        await there.tasks.create(task_spec(), audit=AUDIT)
        await add(task, audit=audit)

    harness.store.tasks.add = late  # type: ignore[method-assign]
    refused = await refusal(harness)

    assert refused.code is ProblemCode.CONFLICT
    assert [one.id for one in await listed_tasks(here)] == ["t", "t~2"]
    for replica in (here, there):
        await replica.stop()


async def test_a_limit_on_taking_part_is_each_tasks_own(harness: CoordinatorHarness) -> None:
    once = "max_participations = 1\nmin_separation_s = 1.0"
    phones = [await harness.enrol() for _ in range(4)]
    for _ in range(2):
        await harness.task(round="goal = 4\nmax_rounds = 1", eligibility=once)
        for phone in phones:
            with contextlib.suppress(ApiError):
                claims = await harness.assigned(phone)
                await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
        await harness.coordinator.tick()
        await harness.coordinator.tick()
        harness.pass_time(86_400.0)

    counts = [await harness.store.assignments.participations_by_task(phone.device) for phone in phones]
    assert counts == [{T: 1, SECOND: 1}] * 4


@pytest.mark.parametrize("name", ["t~0", "t~3", "t~", "t~x", "t~²", "~", "~1", "", "u", "t~1~1", "%", "_"])
async def test_an_operators_address_that_means_no_task_is_refused(
    harness: CoordinatorHarness, name: str
) -> None:
    await harness.task()
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    await harness.task()

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.tasks.get(name)

    assert refused.value.code is ProblemCode.TASK_UNKNOWN


async def test_a_name_that_is_too_long_for_a_number_is_refused_the_second_time(
    harness: CoordinatorHarness,
) -> None:
    await harness.task("t" * 63)
    await harness.coordinator.tasks.cancel("t" * 63, audit=AUDIT)

    refused = await refusal(harness, "t" * 63)

    assert refused.code is ProblemCode.CONFLICT
    assert "too long for a number; choose another one" in refused.detail
    await harness.task("t" * 62)
    await harness.coordinator.tasks.cancel("t" * 62, audit=AUDIT)
    await harness.task("t" * 62)
    assert (await harness.coordinator.tasks.get("t" * 62)).population == POPULATION
