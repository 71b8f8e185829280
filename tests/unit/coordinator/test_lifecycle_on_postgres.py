"""Two processes, each with its own connections to one PostgreSQL: what one orders, the other follows."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, task_spec

from keyflock_server.audit.context import POLICY
from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.interfaces.audit import AuditFilter
from keyflock_server.storage.sql.store import SqlStore


@pytest.fixture
async def harness(postgres_url: str) -> CoordinatorHarness:
    return CoordinatorHarness(store=SqlStore(postgres_url))


@pytest.fixture
async def pair(
    harness: CoordinatorHarness, postgres_url: str
) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """The leader, and another process with a store object of its own."""
    leader = harness.another_coordinator("a")
    harness.store = SqlStore(postgres_url)
    other = harness.another_coordinator("b")
    await leader.start()
    await other.start()
    harness.coordinator = leader
    await harness.create_population()
    yield leader, other
    await leader.stop()
    await other.stop()


async def test_the_leader_opens_its_next_round_with_the_goal_that_another_process_was_told(
    pair: tuple[Coordinator, Coordinator],
) -> None:
    leader, other = pair
    await leader.tasks.create(task_spec(), audit=AUDIT)
    await leader.tick()
    await other.tick()

    await other.tasks.change("t", {"goal": 9}, audit=AUDIT)
    await other.tasks.abandon_round(RoundId("t-1"), drops=True, audit=replace(AUDIT, reason="too small"))
    await leader.tick()
    await leader.tick()
    goals = [(await leader.tasks.round(RoundId(f"t-{sequence}"))).goal for sequence in (1, 2)]

    assert goals == [4, 9]


async def test_the_leader_resumes_a_task_that_another_process_paused_and_it_is_on_record(
    harness: CoordinatorHarness, pair: tuple[Coordinator, Coordinator]
) -> None:
    leader, other = pair
    await leader.tasks.create(task_spec(), audit=AUDIT)
    await other.registry.sync()
    await other.tasks.pause("t", until=harness.now + timedelta(seconds=60), audit=AUDIT)
    await leader.registry.sync()
    paused = [state.status for state in leader.registry]

    harness.pass_time(60)
    await leader.tick()
    await other.tick()

    assert paused == [TaskStatus.PAUSED]
    assert [state.status for state in (*leader.registry, *other.registry)] == [TaskStatus.ACTIVE] * 2
    (entry,) = await harness.store.audit.page(AuditFilter(operator=POLICY), None, 10)
    assert (entry.action, entry.subject) == ("task.resume", "t")
