"""A row that is damaged keeps its own task from going on, and no other; nothing is deleted meanwhile."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.memory_store.blobs import MemoryBlobStore
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_lost_blobs import send_all

from keyflock_server.coordinator.events import NullObserver
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import EnrolRequest
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.sql.store import SqlStore

pytestmark = pytest.mark.fault("D16")


class StuckTaskRecorder(NullObserver):
    """Records which tasks are stuck, and why."""

    def __init__(self) -> None:
        self.stuck: dict[str, Exception] = {}

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        self.stuck[task] = error


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[CoordinatorHarness]:
    """Return a harness over SQLite with two tasks, each with a round under way."""
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path}/keyflock.sqlite3")
    made = CoordinatorHarness(store=store, observer=StuckTaskRecorder())
    made.blobs = MemoryBlobStore(lambda: made.now)
    made.coordinator = made.another_coordinator()
    await made.coordinator.start()
    await made.create_population()
    await made.task("ill")
    await made.task("well")
    yield made
    await made.coordinator.stop()


async def damage(harness: CoordinatorHarness, statement: str) -> None:
    assert isinstance(harness.store, SqlStore)
    async with harness.store._engine.begin() as connection:
        await connection.execute(text(statement))


DAMAGES = {
    "a round's task": "UPDATE rounds SET spec_json = x'7b22' WHERE task = 'ill'",
    "a round's task, no text": "UPDATE rounds SET spec_json = x'00ff00' WHERE task = 'ill'",
    "a task": "UPDATE tasks SET spec_json = x'' WHERE name = 'ill'",
    "a task's status": "UPDATE tasks SET status = '???' WHERE name = 'ill'",
}


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_server_starts_over_a_damaged_row_and_its_other_tasks_go_on(
    harness: CoordinatorHarness, statement: str
) -> None:
    await damage(harness, statement)
    harness.coordinator = harness.another_coordinator()

    await harness.coordinator.start()
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    await send_all(harness, claims)
    await harness.coordinator.tick()

    assert {one.task for one in claims} == {"well"}
    phases = [one.phase for one in await listed_rounds(harness.coordinator, TaskName("well"))]
    assert phases == [Phase.CLOSED, Phase.COLLECTING]
    assert isinstance(harness.observer, StuckTaskRecorder)
    assert set(harness.observer.stuck) == {"ill"}
    assert "ill" in str(harness.observer.stuck["ill"])


async def test_a_server_starts_over_a_damaged_assignment_and_its_other_tasks_go_on(
    harness: CoordinatorHarness,
) -> None:
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    await damage(harness, "UPDATE assignments SET state = '???' WHERE round_id = 'ill-1'")
    harness.coordinator = harness.another_coordinator()

    await harness.coordinator.start()
    await harness.coordinator.tick()
    await send_all(harness, [one for one in claims if one.task == "well"])
    await harness.coordinator.tick()

    phases = [one.phase for one in await listed_rounds(harness.coordinator, TaskName("well"))]
    assert phases == [Phase.CLOSED, Phase.COLLECTING]
    assert isinstance(harness.observer, StuckTaskRecorder)
    assert set(harness.observer.stuck) == {"ill"}


async def test_a_damaged_assignment_stops_no_pass_of_a_process_that_shares_the_store(
    harness: CoordinatorHarness,
) -> None:
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    for one in (here, there):
        await one.start()
    harness.coordinator = here
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    ill = [one for one in claims if one.task == "ill"]
    first = "(SELECT min(id) FROM assignments WHERE round_id = 'ill-1')"
    await damage(harness, f"UPDATE assignments SET expires_at = '???' WHERE id = {first}")  # noqa: S608 - a literal

    await there.tick()
    opened = there.registry.open_round(TaskName("ill"))
    await send_all(harness, [one for one in claims if one.task == "well"])
    await here.tick()

    assert opened is not None
    assert sorted(opened.members) == sorted(one.assignment for one in ill)[1:]
    phases = [one.phase for one in await listed_rounds(here, TaskName("well"))]
    assert phases == [Phase.CLOSED, Phase.COLLECTING]
    assert isinstance(harness.observer, StuckTaskRecorder)
    assert set(harness.observer.stuck) == {"ill"}
    for one in (here, there):
        await one.stop()


async def test_while_a_row_is_damaged_no_blob_is_taken_for_an_orphan(harness: CoordinatorHarness) -> None:
    await harness.blobs.put("partials/ill-1/lost/1", b"perhaps the damaged row points to it")
    await damage(harness, DAMAGES["a round's task"])
    harness.pass_time(7_300.0)

    await harness.coordinator.tick()
    with pytest.raises(StorageDamaged):
        await harness.coordinator._orphans.collect()

    assert await harness.blobs.get("partials/ill-1/lost/1")


async def test_a_row_that_was_restored_lets_its_task_go_on(harness: CoordinatorHarness) -> None:
    await damage(harness, "UPDATE tasks SET status = '???' WHERE name = 'ill'")
    await harness.coordinator.tick()
    await damage(harness, "UPDATE tasks SET status = 'active' WHERE name = 'ill'")
    await damage(harness, "UPDATE tasks SET status = 'paused' WHERE name = 'well'")

    await harness.coordinator.tick()
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]

    assert {one.task for one in claims} == {"ill"}


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_phone_of_a_damaged_round_is_forgotten_all_the_same(
    harness: CoordinatorHarness, statement: str
) -> None:
    claims = [await harness.assigned(await harness.enrol()) for _ in range(6)]
    ill = next(one for one in claims if one.task == "ill")
    await damage(harness, statement)

    forgotten = await harness.coordinator.erasure.forget([ill.device])

    assert forgotten.devices == 1
    assert await harness.store.devices.get(ill.device) is None


async def test_while_a_task_is_damaged_an_attested_phone_enrols(harness: CoordinatorHarness) -> None:
    await damage(harness, DAMAGES["a task"])
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US")

    enrolled = await harness.coordinator.enrolments.enrol(request, None, subject="installation 7")

    assert await harness.store.devices.get(enrolled.device) is not None
