"""A row that is damaged keeps its own task from going on, and no other; nothing is deleted meanwhile."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.coordinator.test_lost_blobs import send_all
from tests.unit.coordinator.town import POPULATION, Town

from keyflock_server.coordinator.events import Silent
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import EnrolRequest
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import StorageDamaged
from keyflock_server.storage.memory import MemoryBlobs
from keyflock_server.storage.sql.store import SqlStore

pytestmark = pytest.mark.fault("D16")


class Heard(Silent):
    """Remembers which tasks are stuck, and why."""

    def __init__(self) -> None:
        self.stuck: dict[str, Exception] = {}

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        self.stuck[task] = error


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """Two tasks, each with a round under way, over SQLite."""
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path}/keyflock.sqlite3")
    made = Town(store=store, observer=Heard())
    made.blobs = MemoryBlobs(lambda: made.now)
    made.coordinator = made.another_coordinator()
    await made.coordinator.start()
    await made.found()
    await made.task("ill")
    await made.task("well")
    yield made
    await made.coordinator.stop()


async def damage(town: Town, statement: str) -> None:
    assert isinstance(town.store, SqlStore)
    async with town.store._engine.begin() as connection:
        await connection.execute(text(statement))


DAMAGES = {
    "a round's task": "UPDATE rounds SET spec_json = x'7b22' WHERE task = 'ill'",
    "a round's task, no text": "UPDATE rounds SET spec_json = x'00ff00' WHERE task = 'ill'",
    "a task": "UPDATE tasks SET spec_json = x'' WHERE name = 'ill'",
    "a task's status": "UPDATE tasks SET status = '???' WHERE name = 'ill'",
}


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_server_starts_over_a_damaged_row_and_its_other_tasks_go_on(
    town: Town, statement: str
) -> None:
    await damage(town, statement)
    town.coordinator = town.another_coordinator()

    await town.coordinator.start()
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    await send_all(town, claims)
    await town.coordinator.tick()

    assert {one.task for one in claims} == {"well"}
    phases = [one.phase for one in await town.coordinator.rounds(TaskName("well"))]
    assert phases == [Phase.CLOSED, Phase.COLLECTING]
    assert isinstance(town.observer, Heard)
    assert set(town.observer.stuck) == {"ill"}
    assert "ill" in str(town.observer.stuck["ill"])


async def test_while_a_row_is_damaged_no_blob_is_taken_for_an_orphan(town: Town) -> None:
    await town.blobs.put("partials/ill-1/lost/1", b"perhaps the damaged row points to it")
    await damage(town, DAMAGES["a round's task"])
    town.pass_time(7_300.0)

    await town.coordinator.tick()
    with pytest.raises(StorageDamaged):
        await town.coordinator._orphans.collect()

    assert await town.blobs.get("partials/ill-1/lost/1")


async def test_a_row_that_was_restored_lets_its_task_go_on(town: Town) -> None:
    await damage(town, "UPDATE tasks SET status = '???' WHERE name = 'ill'")
    await town.coordinator.tick()
    await damage(town, "UPDATE tasks SET status = 'active' WHERE name = 'ill'")
    await damage(town, "UPDATE tasks SET status = 'paused' WHERE name = 'well'")

    await town.coordinator.tick()
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]

    assert {one.task for one in claims} == {"ill"}


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_phone_of_a_damaged_round_is_forgotten_all_the_same(town: Town, statement: str) -> None:
    claims = [await town.assigned(await town.enrol()) for _ in range(6)]
    ill = next(one for one in claims if one.task == "ill")
    await damage(town, statement)

    forgotten = await town.coordinator.forget([ill.device])

    assert forgotten.devices == 1
    assert await town.store.devices.get(ill.device) is None


async def test_while_a_task_is_damaged_an_attested_phone_enrols(town: Town) -> None:
    await damage(town, DAMAGES["a task"])
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US")

    enrolled = await town.coordinator.enrol(request, None, subject="installation 7")

    assert await town.store.devices.get(enrolled.device) is not None
