"""A page of a list costs as many queries with many rows as with few."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, task_spec

from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, TaskName
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.storage.sql.store import SqlStore

POPULATIONS = 6


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[CoordinatorHarness]:
    """Six populations, of which each has a task with an open round, and another one that is over."""
    harness = CoordinatorHarness(store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"))
    await harness.coordinator.start()
    await harness.create_population()
    store = harness.store
    (first,) = await store.populations.all()
    version = await store.populations.version(first.name, ModelVersion(0))
    assert version is not None
    for number in range(1, POPULATIONS):
        name = PopulationName(f"p{number}")
        mine = replace(version, population=name)
        await store.populations.add(replace(first, name=name), mine, audit=AUDIT)
    for population in await store.populations.all():
        for task in ("a", "b"):
            spec = with_ids(task_spec(), TaskName(f"{task}-{population.name}"), population.name)
            await harness.coordinator.tasks.create(spec, audit=AUDIT)
        await harness.coordinator.tick()
        await harness.coordinator.tasks.cancel(f"b-{population.name}", audit=AUDIT)
    harness.coordinator.registry._over.clear()  # as in a process that has not known them
    yield harness
    await harness.coordinator.stop()


async def statements(lists: OperatorLists, what: str, limit: int) -> tuple[int, int]:
    """How many rows a page has, and how many queries it costs."""
    counted: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            counted.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        match what:
            case "populations":
                rows = len((await lists.populations(None, limit, is_archived=None)).items)
            case "tasks":
                rows = len((await lists.tasks(None, limit)).items)
            case _:
                rows = len((await lists.rounds(None, limit)).items)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    return rows, len(counted)


@pytest.mark.parametrize(("what", "rows"), [("populations", 6), ("tasks", 12), ("rounds", 12)])
async def test_a_long_page_costs_what_a_short_one_does(
    harness: CoordinatorHarness, what: str, rows: int
) -> None:
    lists = harness.coordinator.lists

    short, long = await statements(lists, what, 1), await statements(lists, what, 100)

    assert (short[0], long[0]) == (1, rows)
    assert long[1] == short[1] <= 6
