"""Assignments in SQL: the queries; ``rounds.py`` makes and ends them."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, exists, func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import NullType

from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.columns import UtcDateTime
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import AssignmentRecord, AssignmentState
from keyflock_server.storage.sql.history import history_of
from keyflock_server.storage.sql.rows import damaged_row, read_in_pages, readable
from keyflock_server.storage.tables import OPEN_ASSIGNMENT, assignments, rounds, versions

_INSTANTS: Final = tuple(column.name for column in assignments.c if isinstance(column.type, UtcDateTime))
#: The columns with instants as the back end gives them: one that cannot be parsed would fail its whole page.
_UNPARSED: Final = tuple(
    type_coerce(column, NullType()).label(column.name) if column.name in _INSTANTS else column
    for column in assignments.c
)


class SqlAssignmentRepository:
    """Implements ``AssignmentRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine) -> None:
        self._reader = reader

    async def list_by_round(self, round_id: RoundId) -> list[AssignmentRecord]:
        """Return the round's assignments."""
        query = select(assignments).where(assignments.c.round_id == round_id)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        with damaged_row(f"an assignment of round {round_id}"):
            return [assignment_record(row) for row in rows]

    async def get(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        """Return one device's assignment in the round, or None."""
        return await self._one(
            select(assignments).where(assignments.c.round_id == round_id, assignments.c.device == device)
        )

    async def list_by_device(
        self, device: DeviceId, limit: int
    ) -> tuple[list[tuple[TaskName, AssignmentRecord]], int]:
        """Return a device's newest assignments, each with its task, and how many there are in all."""
        mine = assignments.c.device == device
        newest = (
            select(rounds.c.task, *_UNPARSED)
            .select_from(assignments.join(rounds))
            .where(mine)
            .order_by(assignments.c.assigned_at.desc(), assignments.c.round_id.desc())
            .limit(limit)
        )
        async with self._reader.connect() as connection:
            rows = (await connection.execute(newest)).all()
            total = (await connection.execute(select(func.count()).where(mine))).scalar_one()
        return [_with_task(row) for row in rows], total

    async def count_outstanding(self, task: TaskName, since: datetime, until: datetime) -> int:
        """Count the open assignments of a task that were made in this interval."""
        is_withdrawn = exists().where(
            versions.c.population == rounds.c.population,
            versions.c.version == rounds.c.base_version,
            versions.c.withdrawn_at.is_not(None),
        )
        # This runs at every pass of an asynchronous task. A join might begin with all rounds of the task.
        is_its = exists().where(
            rounds.c.id == assignments.c.round_id, rounds.c.task == task, ~is_withdrawn.correlate(rounds)
        )
        query = (
            select(func.count())
            .select_from(assignments)
            .where(
                OPEN_ASSIGNMENT,
                assignments.c.assigned_at > since,
                assignments.c.assigned_at <= until,
                is_its,
            )
        )
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one()

    async def outstanding(
        self,
        since: datetime,
        *,
        task: TaskName | None = None,
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[tuple[TaskName, AssignmentRecord]]:
        """Return the open assignments that were made since then, oldest first, each with its task."""
        # A join might begin with all rounds of the task.
        its_task = select(rounds.c.task).where(rounds.c.id == assignments.c.round_id).scalar_subquery()
        query = select(its_task.label("task"), *_UNPARSED).where(
            OPEN_ASSIGNMENT, assignments.c.assigned_at > since
        )
        if task is not None:
            query = query.where(its_task == task)
        query = query.order_by(assignments.c.assigned_at)
        return await read_in_pages(
            self._reader,
            query,
            lambda page: readable(page, _with_task, lambda row: TaskName(row.task), unreadable),
        )

    async def participations(self, task: TaskName, device: DeviceId) -> int:
        """Count the reports of this device that the task has counted."""
        return await self._count(
            assignments.c.device == device,
            assignments.c.state == AssignmentState.COUNTED,
            rounds.c.task == task,
        )

    async def participations_by_task(self, device: DeviceId) -> dict[TaskName, int]:
        """Count the reports of this device that were counted, by task."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(participations_by_task, device)

    async def history(self, task: TaskName, rounds: int, assignments: int) -> RoundHistory:
        """Return how the task's last rounds ended."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(history_of, task, rounds, assignments)

    async def _one(self, query: Select[Any]) -> AssignmentRecord | None:
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else assignment_record(row)

    async def _count(self, *where: Any) -> int:  # noqa: ANN401 - SQLAlchemy's conditions
        query = select(func.count()).select_from(assignments.join(rounds)).where(*where)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one()


def participations_by_task(connection: Connection, device: DeviceId) -> dict[TaskName, int]:
    """Count the reports of this device that were counted, by task."""
    query = (
        select(rounds.c.task, func.count())
        .select_from(assignments.join(rounds))
        .where(assignments.c.device == device, assignments.c.state == AssignmentState.COUNTED)
        .group_by(rounds.c.task)
    )
    return {TaskName(task): count for task, count in connection.execute(query)}


def assignment_record(row: Row[Any]) -> AssignmentRecord:
    """Return the assignment that a row holds."""
    return _record(dict(row._mapping))  # noqa: SLF001 - the documented name of a row's mapping


def _with_task(row: Row[Any]) -> tuple[TaskName, AssignmentRecord]:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    task = TaskName(columns.pop("task"))
    with damaged_row(f"an open assignment of task {task}"):
        columns.update((name, _instant(columns[name])) for name in _INSTANTS)
        return task, _record(columns)


def _instant(value: datetime | str | None) -> datetime | None:
    """Return an instant as ``UtcDateTime`` does; SQLite has text."""
    if value is None:
        return None
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _record(columns: dict[str, Any]) -> AssignmentRecord:
    return AssignmentRecord(state=AssignmentState(columns.pop("state")), **columns)
