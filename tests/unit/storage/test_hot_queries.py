"""Queries of every pass use an index, however many rounds and assignments are stored."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, TaskName
from keyflock_server.storage.sql.rows import PAGE_ROWS
from keyflock_server.storage.sql.store import SqlStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK, DEVICE = TaskName("t"), DeviceId("d" * 32)

#: All queries of a pass or a check-in.
HOT: dict[str, Callable[[SqlStore], Awaitable[object]]] = {
    "rounds under way": lambda store: store.rounds.unfinished(),
    "rounds so far": lambda store: store.rounds.count(TASK),
    "how rounds went": lambda store: store.rounds.phases(TASK),
    "rounds of late": lambda store: store.assignments.history(TASK, 20, 0),
    "who trains now": lambda store: store.assignments.count_outstanding(TASK, NOW, NOW),
    "who was assigned lately": lambda store: store.assignments.outstanding(NOW),
    "who has work of a task": lambda store: store.assignments.outstanding(NOW, task=TASK),
    "how often it took part": lambda store: store.assignments.participations(TASK, DEVICE),
    "a device": lambda store: store.devices.get(DEVICE),
    "what changed of devices": lambda store: store.devices.changed_since(NOW, 10),
    "who was seen": lambda store: store.devices.count_active(PopulationName("p"), NOW),
    "quarantined devices": lambda store: store.devices.quarantined(NOW),
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'hot.sqlite3'}")
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize("question", HOT)
async def test_no_table_is_read_from_one_end_to_the_other(
    store: SqlStore, tmp_path: Path, question: str
) -> None:
    plans = await plans_of(store, tmp_path, question)
    assert plans
    assert [plan for plan in plans if plan.startswith("SCAN") and plan != "SCAN CONSTANT ROW"] == []


async def test_the_devices_of_a_day_are_counted_without_their_rows(store: SqlStore, tmp_path: Path) -> None:
    plans = await plans_of(store, tmp_path, "who was seen")
    index = "devices_by_last_seen (population=? AND last_seen_at>?)"
    assert plans == [f"SEARCH devices USING COVERING INDEX {index}"]


async def plans_of(store: SqlStore, folder: Path, question: str) -> list[str]:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:  # noqa: ANN401
        asked.append((statement, parameters))

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    await HOT[question](store)
    return [plan for statement, parameters in asked for plan in explained(folder, statement, parameters)]


def explained(folder: Path, statement: str, parameters: Any) -> list[str]:  # noqa: ANN401
    if not statement.startswith("SELECT"):
        return []
    with closing(sqlite3.connect(folder / "hot.sqlite3")) as database:
        return [detail for *_, detail in database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


@pytest.mark.parametrize("question", ["what changed of devices", "who was assigned lately"])
async def test_what_other_processes_did_is_read_in_pages(store: SqlStore, question: str) -> None:
    """All rows at once, tens of thousands of them, would stop the event loop."""
    page_rows: list[int | None] = []

    def note(*call: Any) -> None:  # noqa: ANN401 - as SQLAlchemy calls it
        context = call[4]
        page_rows.append(context.execution_options.get("yield_per"))

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    await HOT[question](store)

    assert page_rows[-1] == PAGE_ROWS
