"""Transactions lock assignments in one order, so that no two of them wait for each other."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.sql.expiry import due_assignments
from keyflock_server.storage.sql.store import SqlStore

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


@pytest.mark.fault("D13")
async def test_what_runs_out_is_locked_as_a_flush_and_who_forgets_lock_it(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'order.sqlite3'}")
    await store.open()
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
        asked.append(statement)

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    async with store._engine.begin() as connection:
        await due_assignments(connection, BUFFER, NOW, (), lock=True)

    assert asked[-1].endswith("ORDER BY assignments.round_id, assignments.device")
    await store.close()
