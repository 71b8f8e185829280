"""A task's history: what operators and policies changed of it, and how its rounds ended."""

from keyflock_server.audit.entry import AuditEntry, SubjectKind
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.protocol.operator.tasks import TaskEvent, TaskHistory
from keyflock_server.rounds.round import Round
from keyflock_server.storage.interfaces.audit import AuditFilter


class TaskHistories:
    """Reads the histories of tasks."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._addresses = TaskAddresses(deps)

    async def history(self, name: str, limit: int) -> TaskHistory:
        """Return the newest events of a task, newest first; raises ApiError ``task_unknown``."""
        task = await self._addresses.find(name)
        wanted = AuditFilter(subject_kind=SubjectKind.TASK, subject=task)
        entries = await self._deps.store.audit.page(wanted, None, limit)
        rounds = await self._deps.store.rounds.list_by_task(task, last=limit)
        events = [
            *(_change(entry) for entry in entries),
            *(_end(record.round) for record in rounds if record.round.closed_at is not None),
        ]
        return TaskHistory(items=sorted(events, key=lambda one: one.at, reverse=True)[:limit])


def _change(entry: AuditEntry) -> TaskEvent:
    return TaskEvent(
        at=entry.at,
        what=entry.action,
        operator=entry.operator,
        detail=entry.reason,
        audit=entry.sequence,
    )


def _end(ended: Round) -> TaskEvent:
    return TaskEvent(
        at=ended.closed_at or ended.opened_at,
        what=f"round.{ended.phase}",
        detail=ended.detail,
        round=ended.id,
        reports=ended.reports,
        version=ended.result_version,
    )
