"""Tasks in SQL."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.numbered_names import by_number, numbered_prefix
from keyflock_server.rounds.stored_task import stored_task
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.audit_documents import task_document
from keyflock_server.storage.errors import AlreadyExists, Superseded, UnreadableRow
from keyflock_server.storage.interfaces.tasks import LiveTask, TaskChanges, reasons
from keyflock_server.storage.records import TaskRecord
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.population_rows import IS_THERE, require_population
from keyflock_server.storage.sql.rows import damaged_row, readable
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import populations, tasks

_OVER: Final = tuple(status for status in TaskStatus if status.is_over)


class SqlTaskRepository:
    """Implements ``TaskRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, task: TaskRecord, *, audit: AuditContext) -> None:
        """Add a task."""

        def transaction(connection: Connection) -> None:
            require_population(connection, task.spec.population)
            with audited(connection, audit, SubjectKind.TASK, task.name, _document):
                connection.execute(insert(tasks).values(_columns(task)))

        try:
            await self._transactions.run(transaction)
        except IntegrityError:
            raise AlreadyExists(task.name) from None

    async def ids_of(self, name: TaskName) -> list[TaskName]:
        """Return the ids of all tasks of this name, oldest first, also of deleted ones."""
        is_numbered = tasks.c.name.startswith(numbered_prefix(name), autoescape=True)
        async with self._reader.connect() as connection:
            found = await connection.scalars(select(tasks.c.name).where((tasks.c.name == name) | is_numbered))
            return by_number(TaskName(id_) for id_ in found)

    async def get(self, name: TaskName) -> TaskRecord | None:
        """Return the task of this id, or None."""
        query = select(tasks).join(populations).where(tasks.c.name == name, IS_THERE)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else task_record(row)

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:
        """Return all tasks, oldest first."""
        async with self._reader.connect() as connection:
            query = select(tasks).join(populations).where(IS_THERE)
            rows = await connection.execute(query.order_by(tasks.c.created_at, tasks.c.name))
        return list(readable(rows, task_record, lambda row: TaskName(row.name), unreadable))

    async def live(self, unreadable: list[UnreadableRow] | None = None) -> dict[TaskName, LiveTask]:
        """Return what changes of each task that is not over, oldest first."""
        # This runs at every pass. A damaged status is none of those that are over, so it is reported.
        query = select(tasks.c.name, tasks.c.status, tasks.c.revision, tasks.c.resumes_at).where(
            tasks.c.status.not_in(_OVER)
        )
        async with self._reader.connect() as connection:
            rows: Iterable[Any] = await connection.execute(query.order_by(tasks.c.created_at, tasks.c.name))
        return dict(readable(rows, _live_task, lambda row: TaskName(row.name), unreadable))

    async def set_status(
        self, name: TaskName, status: TaskStatus, *, reason: str = "", audit: AuditContext | None = None
    ) -> None:
        """Write the task's status, unless it is over."""
        mine = (tasks.c.name == name) & tasks.c.status.not_in([*_OVER, status])
        change = (
            update(tasks)
            .where(mine)
            .values(status=status, revision=tasks.c.revision + 1, **reasons(status, reason))
        )

        def transaction(connection: Connection) -> None:
            with audited(connection, audit, SubjectKind.TASK, name, _document):
                connection.execute(change)

        await self._transactions.run(transaction)

    async def change(self, name: TaskName, changes: TaskChanges, *, audit: AuditContext) -> TaskRecord:
        """Change a task, and return it."""

        def transaction(connection: Connection) -> TaskRecord:
            with audited(connection, audit, SubjectKind.TASK, name, _document):
                before = _locked(connection, name)
                if before is None:
                    raise Superseded(name)
                after = replace(before, **changes)
                if after == before:
                    return before
                if before.status.is_over and replace(after, archived_at=before.archived_at) != before:
                    raise Superseded(name)
                after = replace(after, revision=before.revision + 1)
                connection.execute(update(tasks).where(tasks.c.name == name).values(_columns(after)))
                return after

        return await self._transactions.run(transaction)

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        """Store these norm scales unless the task has some, and return the stored ones."""
        mine = tasks.c.name == name
        claim = update(tasks).where(mine, tasks.c.norm_scales_json.is_(None))

        def transaction(connection: Connection) -> bytes:
            connection.execute(claim.values(norm_scales_json=norm_scales_json))
            known: bytes = connection.execute(select(tasks.c.norm_scales_json).where(mine)).scalar_one()
            return known

        return await self._transactions.run(transaction)


def _live_task(row: Row[Any]) -> tuple[TaskName, LiveTask]:
    with damaged_row(f"task {row.name}"):
        return TaskName(row.name), LiveTask(TaskStatus(row.status), row.revision, row.resumes_at)


def task_record(row: Row[Any]) -> TaskRecord:
    """Return the task that a row holds; raises StorageDamaged."""
    with damaged_row(f"task {row.name}"):
        spec, status = stored_task(row.spec_json), TaskStatus(row.status)
    return TaskRecord(
        spec=spec,
        status=status,
        created_at=row.created_at,
        optimizer_state_key=row.optimizer_state_key,
        norm_scales_json=row.norm_scales_json,
        pause_reason=row.pause_reason,
        resumes_at=row.resumes_at,
        archived_at=row.archived_at,
        end_reason=row.end_reason,
        revision=row.revision,
    )


def _columns(task: TaskRecord) -> dict[str, Any]:
    own = {one.name: getattr(task, one.name) for one in fields(task) if one.name != "spec"}
    return own | {"name": task.name, "population": task.spec.population, "spec_json": task.spec.to_json()}


def _locked(connection: Connection, name: str) -> TaskRecord | None:
    row = connection.execute(select(tasks).where(tasks.c.name == name).with_for_update()).one_or_none()
    return None if row is None else task_record(row)


def _document(connection: Connection, name: str) -> Document | None:
    record = _locked(connection, name)
    return None if record is None else task_document(record)
