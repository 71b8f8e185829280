"""Transactions lock assignments in one order, so that no two of them wait for each other."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Table, event
from tests.contract.audits import AUDIT
from tests.contract.test_group_writer_contract import engine_of
from tests.contract.test_store_contract import POPULATION, VERSION, assignment, device, forgotten

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.interfaces.group_writer import AddDevice, GiveBack, Operation, TakeSlot
from keyflock_server.storage.retention import ExpiredRows, UnprovenDevices
from keyflock_server.storage.sql.expiry import due_assignments
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import assignments, devices, tasks, versions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = parse_task('[task]\nname = "u"\npopulation = "en"\n[round]\nmode = "async"\ngoal = 4\n')
BUFFER = Round(
    id=RoundId("u-2"),
    task=TaskName("u"),
    population=PopulationName("en"),
    sequence=2,
    base_version=ModelVersion(0),
    spec=SPEC,
    opened_at=NOW,
    deadline_at=NOW,
)


def statements_of(engine: Engine) -> list[str]:
    """The statements that the engine executes from now on, each on one line."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
        asked.append(" ".join(statement.split()))

    event.listen(engine, "before_cursor_execute", note)
    return asked


@pytest.mark.fault("D13")
async def test_what_runs_out_is_locked_as_a_flush_and_who_forgets_lock_it(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'order.sqlite3'}")
    await store.open()
    asked = statements_of(store._engine.sync_engine)
    async with store._engine.begin() as connection:
        await connection.run_sync(due_assignments, BUFFER, NOW, (), lock=True)

    assert asked[-1].endswith("ORDER BY assignments.round_id, assignments.device")
    await store.close()


@pytest.mark.fault("D13")
async def test_a_group_locks_rounds_then_assignments_then_devices_then_populations_by_key(
    tmp_path: Path,
) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'order.sqlite3'}")
    await store.open()
    asked = statements_of(engine_of(store))
    group: list[Operation] = [
        AddDevice(device("b")),
        TakeSlot(assignment("a")),
        GiveBack(assignment("b"), "", NOW),
    ]
    await store.group_writer.commit(group)

    reads = [one.partition(" FROM ")[2] for one in asked if one.startswith("SELECT")]
    assert [(one.split()[0], one.partition(" ORDER BY ")[2]) for one in reads] == [
        ("rounds", "rounds.id"),
        ("assignments", "assignments.round_id, assignments.device"),
        ("devices", "devices.id"),
        ("populations", "populations.name"),
    ]
    await store.close()


def _expired() -> ExpiredRows:
    unproven = UnprovenDevices(seen_before=NOW, now=NOW)
    return ExpiredRows(
        rounds_ended_before=NOW,
        devices_seen_before=NOW,
        unproven=unproven,
        excluded_tasks=(),
        orphans_written_before=NOW,
        versions=(),
    )


@pytest.mark.fault("D13")
@pytest.mark.parametrize(
    ("write", "tables"),
    [
        (lambda store: store.rounds.clear_up(RoundId("u-1")), [assignments]),
        (lambda store: store.retention.delete(_expired()), [assignments, devices]),
        (lambda store: store.populations.delete_rounds(PopulationName("en"), 10), [assignments]),
        (lambda store: forgotten(store, "a", "b"), [assignments]),
    ],
    ids=["clear up", "retention", "a deleted population", "forgetting"],
)
async def test_rows_are_locked_by_key_before_they_are_deleted(
    tmp_path: Path, write: Callable[[SqlStore], Awaitable[object]], tables: list[Table]
) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'order.sqlite3'}")
    await store.open()
    asked = statements_of(engine_of(store))
    await write(store)

    for table in tables:
        order = "ORDER BY " + ", ".join(str(column) for column in table.primary_key)
        deleted = next(i for i, one in enumerate(asked) if one.split()[:3] == ["DELETE", "FROM", table.name])
        assert [one for one in asked[:deleted] if f"FROM {table.name} " in one and order in one]
    await store.close()


async def _roll_back(store: SqlStore) -> None:
    copy = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0))
    await store.populations.roll_back(copy, ModelVersion(0), "worse", audit=AUDIT)


async def _finish_deletion(store: SqlStore) -> None:
    await store.populations.finish_deletion(POPULATION.name)


@pytest.mark.fault("D13")
@pytest.mark.parametrize(
    ("is_deleted", "write"),
    [(False, _roll_back), (True, _finish_deletion)],
    ids=["rollback", "a deleted population"],
)
async def test_a_populations_versions_and_then_its_tasks_are_locked_by_key_before_they_change(
    tmp_path: Path, is_deleted: bool, write: Callable[[SqlStore], Awaitable[None]]
) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'order.sqlite3'}")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    if is_deleted:
        await store.populations.mark_deleted(POPULATION.name, NOW, audit=AUDIT)
    asked = statements_of(engine_of(store))
    await write(store)
    await store.close()

    found: list[int] = []
    for table in (versions, tasks):
        order = "ORDER BY " + ", ".join(str(column) for column in table.primary_key)
        changes = [["UPDATE", table.name], ["DELETE", "FROM", table.name]]
        found += [i for i, one in enumerate(asked) if f"FROM {table.name} " in one and order in one]
        found += [i for i, one in enumerate(asked) if any(one.split()[: len(c)] == c for c in changes)]
    assert len(found) == 4
    assert found == sorted(found)
