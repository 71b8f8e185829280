"""The interface to tasks."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypedDict

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import TaskRecord


class TaskChanges(TypedDict, total=False):
    """What operators change of a task."""

    spec: TaskSpec
    status: TaskStatus
    pause_reason: str
    resumes_at: datetime | None
    archived_at: datetime | None
    end_reason: str


@dataclass(frozen=True, slots=True)
class LiveTask:
    """What a pass reads of every task that is not over."""

    status: TaskStatus
    #: It grows with each change, also of the spec.
    revision: int = 0
    #: When a paused task resumes by itself.
    resumes_at: datetime | None = None


class StatusReasons(TypedDict):
    """The columns that say why a task has its status."""

    pause_reason: str
    resumes_at: datetime | None
    end_reason: str


def reasons(status: TaskStatus, reason: str) -> StatusReasons:
    """Return the columns that a new status brings, the same for every store."""
    return StatusReasons(
        pause_reason=reason if status is TaskStatus.PAUSED else "",
        resumes_at=None,
        end_reason=reason if status.is_over else "",
    )


class TaskRepository(Protocol):
    """Stores tasks.

    Each change by an operator takes an ``AuditContext``, and has an entry in the audit log.
    """

    async def add(self, task: TaskRecord, *, audit: AuditContext) -> None:
        """Add a task.

        Raises:
            AlreadyExists: there is a task of this id.
            PopulationGone: the population was deleted.
        """
        ...

    async def ids_of(self, name: TaskName) -> list[TaskName]:
        """Return the ids of all tasks that were created under this name, oldest first.

        Those of deleted populations are among them, so that no id is used twice.
        """
        ...

    async def get(self, name: TaskName) -> TaskRecord | None:
        """Return the task of this id, or None."""
        ...

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:
        """Return all tasks, oldest first; damaged rows go into ``unreadable``, or raise StorageDamaged."""
        ...

    async def live(self, unreadable: list[UnreadableRow] | None = None) -> dict[TaskName, LiveTask]:
        """Return what changes of each task that is not over, oldest first; damaged rows as in ``all``."""
        ...

    async def set_status(
        self, name: TaskName, status: TaskStatus, *, reason: str = "", audit: AuditContext | None = None
    ) -> None:
        """Write the task's status, unless it is over: a process that does not know so yet revives none.

        A task that has this status already stays as it is.

        Args:
            name: The task's id.
            status: The status.
            reason: Why it is paused, or has ended; an active task has no reason.
            audit: The operator who changes it, and why; None for the end of its last round.
        """
        ...

    async def change(self, name: TaskName, changes: TaskChanges, *, audit: AuditContext) -> TaskRecord:
        """Change a task, and return it; its revision grows if one of the values differs.

        Args:
            name: The task's id.
            changes: The new values. Of a task that is over only ``archived_at`` may differ.
            audit: Who changes it and why, and the revision that this was decided on.
        Raises:
            Superseded: the task has another revision, is over, or is gone; nothing was changed.
        """
        ...

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        """Store these norm scales unless the task has some, and return the stored ones."""
        ...
