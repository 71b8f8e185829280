"""The interface to tasks."""

from typing import Protocol

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import TaskRecord


class TaskRepository(Protocol):
    """Stores tasks."""

    async def add(self, task: TaskRecord) -> None:
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

    async def live_statuses(
        self, unreadable: list[UnreadableRow] | None = None
    ) -> dict[TaskName, TaskStatus]:
        """Return the status of each task that is not over, oldest first; damaged rows as in ``all``."""
        ...

    async def set_status(self, name: TaskName, status: TaskStatus) -> None:
        """Write the task's status, unless it is over: a process that does not know so yet revives none."""
        ...

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        """Store these norm scales unless the task has some, and return the stored ones."""
        ...
