"""Tasks in memory."""

from dataclasses import replace

from tests.memory_store.rows import MemoryRows

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.numbered_names import base_name, by_number
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.audit_documents import task_document
from keyflock_server.storage.errors import AlreadyExists, Superseded, UnreadableRow
from keyflock_server.storage.interfaces.tasks import LiveTask, TaskChanges, reasons
from keyflock_server.storage.records import TaskRecord


class MemoryTaskRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, task: TaskRecord, *, audit: AuditContext) -> None:
        self._rows.require_population(task.spec.population)
        if task.name in self._rows.tasks or task.name in self._rows.deleted_tasks:
            raise AlreadyExists(task.name)
        with self._rows.log.audited(audit, SubjectKind.TASK, task.name, lambda: self._document(task.name)):
            self._rows.tasks[task.name] = task

    async def ids_of(self, name: TaskName) -> list[TaskName]:
        every = (*self._rows.tasks, *self._rows.deleted_tasks)
        return by_number(id_ for id_ in every if base_name(id_) == name)

    async def get(self, name: TaskName) -> TaskRecord | None:
        task = self._rows.tasks.get(name)
        return task if task is not None and task.spec.population in self._rows.populations else None

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:  # noqa: ARG002 - no row here is damaged
        return self._oldest_first()

    async def live(
        self,
        unreadable: list[UnreadableRow] | None = None,  # noqa: ARG002 - no row here is damaged
    ) -> dict[TaskName, LiveTask]:
        return {
            task.name: LiveTask(task.status, task.revision, task.resumes_at)
            for task in self._oldest_first()
            if not task.status.is_over
        }

    async def set_status(
        self, name: TaskName, status: TaskStatus, *, reason: str = "", audit: AuditContext | None = None
    ) -> None:
        with self._rows.log.audited(audit, SubjectKind.TASK, name, lambda: self._document(name)):
            known = self._rows.tasks.get(name)
            if known is not None and not known.status.is_over and known.status is not status:
                after = replace(known, status=status, revision=known.revision + 1)
                self._rows.tasks[name] = replace(after, **reasons(status, reason))

    async def change(self, name: TaskName, changes: TaskChanges, *, audit: AuditContext) -> TaskRecord:
        with self._rows.log.audited(audit, SubjectKind.TASK, name, lambda: self._document(name)):
            before = self._rows.tasks.get(name)
            if before is None:
                raise Superseded(name)
            after = replace(before, **changes)
            if after == before:
                return before
            if before.status.is_over and replace(after, archived_at=before.archived_at) != before:
                raise Superseded(name)
            self._rows.tasks[name] = after = replace(after, revision=before.revision + 1)
            return after

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        known = self._rows.tasks[name].norm_scales_json
        if known is None:
            known = norm_scales_json
            self._rows.tasks[name] = replace(self._rows.tasks[name], norm_scales_json=known)
        return known

    def _document(self, name: TaskName) -> Document | None:
        known = self._rows.tasks.get(name)
        return None if known is None else task_document(known)

    def _oldest_first(self) -> list[TaskRecord]:
        here = (task for task in self._rows.tasks.values() if task.spec.population in self._rows.populations)
        return sorted(here, key=lambda task: (task.created_at, task.name))
