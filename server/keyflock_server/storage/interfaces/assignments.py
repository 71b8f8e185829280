"""The interface to the assignments of all rounds; they change only with their round."""

from datetime import datetime
from typing import Protocol

from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import AssignmentRecord


class AssignmentRepository(Protocol):
    """Reads assignments; ``RoundRepository`` makes them and ends them, together with their round's counts."""

    async def list_by_round(self, round_id: RoundId) -> list[AssignmentRecord]:
        """Return the round's assignments."""
        ...

    async def get(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        """Return one device's assignment in the round, or None."""
        ...

    async def list_by_device(
        self, device: DeviceId, limit: int
    ) -> tuple[list[tuple[TaskName, AssignmentRecord]], int]:
        """Return a device's newest assignments, each with its task, and how many there are in all."""
        ...

    async def count_outstanding(self, task: TaskName, since: datetime, until: datetime) -> int:
        """Count the open assignments of a task that were made in this interval.

        Assignments of withdrawn versions do not count: their reports would be rejected.
        """
        ...

    async def outstanding(
        self,
        since: datetime,
        *,
        task: TaskName | None = None,
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[tuple[TaskName, AssignmentRecord]]:
        """Return the open assignments that were made since then, oldest first, each with its task.

        Args:
            since: The instant.
            task: The task; None returns the assignments of all tasks.
            unreadable: A list that damaged rows are added to; None raises StorageDamaged instead.
        """
        ...

    async def history(self, task: TaskName, rounds: int, assignments: int) -> RoundHistory:
        """Return how the task's last rounds ended that closed or were abandoned, and were never held.

        Args:
            task: The task.
            rounds: The maximum number of rounds, newest first.
            assignments: The maximum number of their assignments, those of the newest rounds first.
        """
        ...

    async def participations(self, task: TaskName, device: DeviceId) -> int:
        """Count the reports of this device that the task has counted."""
        ...

    async def participations_by_task(self, device: DeviceId) -> dict[TaskName, int]:
        """Count the reports of this device that were counted, by task."""
        ...
