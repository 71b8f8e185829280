"""The registry holds the tasks that are not over, and a pass reads of the others nothing at all."""

import contextlib

import pytest
from tests.contract.audits import AUDIT
from tests.memory_store.store import MemoryStore
from tests.memory_store.tasks import MemoryTaskRepository
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds, listed_tasks

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Failure, FailureCause, Offer, OfferAction
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.interfaces.tasks import TaskRepository
from keyflock_server.storage.records import TaskRecord

T = TaskName("t")
ONE_ROUND = "goal = 4\nmax_rounds = 1\nover_selection = 0.5"
SEPARATION = "min_separation_s = 5000.0"


class RecordingTasks(MemoryTaskRepository):
    """Records which tasks are read with their specs."""

    def __init__(self, inner: TaskRepository) -> None:
        assert isinstance(inner, MemoryTaskRepository)
        super().__init__(inner._rows)
        self.reads: list[str] = []

    async def get(self, name: TaskName) -> TaskRecord | None:
        self.reads.append(name)
        return await super().get(name)

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:
        self.reads.append("all")
        return await super().all(unreadable)


def names(harness: CoordinatorHarness) -> list[str]:
    return [state.task for state in harness.coordinator.registry]


async def finish(harness: CoordinatorHarness) -> list[AssignmentClaims]:
    """Play the only round of a task to its end; return its six assignments, of which four are counted."""
    await harness.task(round=ONE_ROUND, eligibility=SEPARATION)
    claims = [await harness.assigned(await harness.enrol()) for _ in range(6)]
    for one in claims[:4]:
        with contextlib.suppress(ApiError):  # it waits for the others
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    return claims


async def test_a_finished_task_leaves_the_registry_and_operators_see_it_all_the_same(
    harness: CoordinatorHarness,
) -> None:
    await finish(harness)

    tasks = harness.coordinator.tasks
    (closed,) = await listed_rounds(harness.coordinator, T)

    assert names(harness) == []
    assert ((await tasks.get(T)).state, closed.phase) == ("finished", Phase.CLOSED)
    assert (await tasks.round(closed.id)) == closed  # type: ignore[arg-type]  # a view's id is plain text
    assert [view.name for view in await listed_tasks(harness.coordinator)] == ["t"]
    with pytest.raises(ApiError) as refused:
        await tasks.pause(T, audit=AUDIT)
    assert refused.value.code is ProblemCode.CONFLICT


async def test_what_comes_late_for_a_finished_task_is_answered_with_its_own_window(
    harness: CoordinatorHarness,
) -> None:
    claims = await finish(harness)
    reports = harness.coordinator.reports

    again = await reports.report(claims[0], report(constant(1.0), of=claims[0]))
    offer = await reports.offer(claims[5], Offer(size_bytes=1, model_version=claims[5].model_version))
    failure = await reports.failure(claims[5], Failure(cause=FailureCause.INTERRUPTED))
    with pytest.raises(ApiError) as refused:
        await reports.report(claims[5], report(constant(1.0), of=claims[5]))

    assert (again.counted, again.duplicate) == (True, True)
    assert offer.action is OfferAction.DROP
    assert refused.value.code is ProblemCode.ROUND_GONE
    assert {one.return_window.min_s for one in (again, offer, failure)} == {5000.0}


async def test_a_cancelled_task_leaves_the_registry_and_is_cancelled_once_more_without_error(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=ONE_ROUND)
    await harness.coordinator.tasks.cancel(T, audit=AUDIT)
    await harness.coordinator.tick()

    assert names(harness) == []
    assert (await harness.coordinator.tasks.cancel(T, audit=AUDIT)).state == "cancelled"


async def test_a_pass_in_which_nothing_has_changed_reads_no_task(harness: CoordinatorHarness) -> None:
    await finish(harness)
    await harness.task("u")
    assert isinstance(harness.store, MemoryStore)
    recorded = harness.store.tasks = RecordingTasks(harness.store.tasks)

    for _ in range(3):
        await harness.coordinator.tick()

    assert names(harness) == ["u"]
    assert recorded.reads == []


async def test_a_task_of_another_process_is_found_at_the_next_pass_and_read_once(
    harness: CoordinatorHarness,
) -> None:
    one, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await one.start()
    await other.start()
    await one.tasks.create(task_spec(), audit=AUDIT)
    assert isinstance(harness.store, MemoryStore)
    recorded = harness.store.tasks = RecordingTasks(harness.store.tasks)

    await other.registry.sync()
    await other.registry.sync()
    found = [(state.task, state.status) for state in other.registry]
    await one.tasks.pause(T, audit=AUDIT)
    recorded.reads.clear()
    await other.registry.sync()
    paused = [(state.task, state.status) for state in other.registry]
    read_for_the_status = list(recorded.reads)
    await one.tasks.cancel(T, audit=AUDIT)
    await other.registry.sync()

    assert found == [("t", "active")]
    assert paused == [("t", "paused")]
    assert read_for_the_status == ["t"]
    assert list(other.registry) == []
    await one.stop()
    await other.stop()


async def test_a_task_that_is_over_stays_until_its_round_is_over_too(harness: CoordinatorHarness) -> None:
    """A process that does not lead cancels a task; the leader ends the round with its next pass."""
    await harness.task()
    await harness.store.tasks.set_status(T, TaskStatus.CANCELLED)
    leader = harness.another_coordinator()

    await leader.start()
    before = [(state.status, state.open_round is not None) for state in leader.registry]
    await leader.tick()
    await leader.tick()

    assert before == [(TaskStatus.CANCELLED, True)]
    assert list(leader.registry) == []
    assert [one.phase for one in await listed_rounds(leader, T)] == [Phase.CANCELLED]
