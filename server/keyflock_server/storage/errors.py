"""Errors of the record store and the blob store."""

from collections.abc import Collection
from typing import ClassVar, NamedTuple, Self

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId, TaskName
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.records import AssignmentRecord, AssignmentState


class StorageError(Exception):
    """Fault of the operator or the machine: the store cannot be used; the message says why and what to do."""

    #: The message is ours, and quotes no row: a log may hold it.
    is_loggable: ClassVar[bool] = True


class StorageUnavailable(StorageError):
    """The store does not answer now: it is stopped, full, busy or cut off. The call may be tried again soon.

    Whether a transaction that ended so was committed cannot always be known: read again before repeating it.
    """


class StorageDamaged(StorageUnavailable):
    """The stored data is damaged. It is left as it is, because trying again does not repair it.

    The operator restores the backup.
    """


class UnreadableRow(NamedTuple):
    """A damaged row of a task or of one of its rounds. The other rows stay usable."""

    task: TaskName
    error: StorageDamaged


class BlobMissing(StorageError):
    """No blob has that key."""


class AlreadyExists(Exception):
    """A row with that key exists already."""


class Superseded(Exception):
    """The row has changed since the writer read it; nothing was written."""


class SlotRefused(Superseded):
    """The device must not have the slot: its facts have changed since the check-in judged it.

    Args:
        assignment: The assignment that was not stored.
        facts: The device's facts; None if it is not enrolled any more.
    """

    def __init__(self, assignment: AssignmentId, facts: DeviceFacts | None) -> None:
        super().__init__(assignment)
        self.facts = facts


class PopulationGone(Exception):
    """There is no such population any more: it was deleted, or is being deleted; nothing was written."""


class PopulationInUse(Exception):
    """The population has tasks or rounds that are not over; nothing was changed.

    Args:
        tasks: The tasks that are not over.
        rounds: The rounds that are not over.
    """

    def __init__(self, tasks: Collection[TaskName], rounds: Collection[RoundId]) -> None:
        super().__init__(f"{len(tasks)} tasks and {len(rounds)} rounds are not over")
        self.tasks = tuple(tasks)
        self.rounds = tuple(rounds)


class PartialSuperseded(Exception):
    """The stored partial aggregate is not the one that the process wants to replace; nothing was written.

    An earlier flush of the same process, which it believed to be lost, was committed after all.
    """


class AssignmentsNotOpen(Exception):
    """Reports have no open assignment: it was counted by another process, given back, or has expired.

    Args:
        rows: The current rows of these assignments; an assignment that does not exist has no row.
        missing: The ids of all these assignments.
    """

    def __init__(self, rows: Collection[AssignmentRecord], missing: Collection[AssignmentId]) -> None:
        super().__init__(f"{len(missing)} reports have no open assignment")
        self.rows = tuple(rows)
        self.missing = frozenset(missing)

    @classmethod
    def find(
        cls,
        reported: Collection[AssignmentId],
        rows: Collection[AssignmentRecord],
        enrolled: Collection[DeviceId],
    ) -> Self | None:
        """Return the error for a flush of these reports, or None where all their assignments are open."""
        is_open = (row.state is AssignmentState.ASSIGNED and row.device in enrolled for row in rows)
        missing = set(reported) - {row.id for row, good in zip(rows, is_open, strict=True) if good}
        return cls([row for row in rows if row.id in missing], missing) if missing else None
