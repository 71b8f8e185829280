"""The interface to the group writer: what must be durable before it is answered, many operations at once.

An operation is what one request needs to have written. Operations that arrive together share one transaction,
so that the disk is synced once for all of them (docs/decisions/0049).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keyflock_server.storage.records import (
    AssignmentRecord,
    CountedReport,
    DeviceRecord,
    PartialRecord,
    RoundRecord,
)


@dataclass(frozen=True, slots=True)
class TakeSlot:
    """Store an assignment, which takes a slot of its round. The result is the round after it.

    Raises:
        AlreadyExists: the device has an assignment in the round.
        SlotRefused: the device is not enrolled, is quarantined, or has contributed too recently.
        Superseded: no slot is left, or the round takes no device any more.
    """

    assignment: AssignmentRecord


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Mark an assignment as failed, and free its slot while the round collects.

    The result is the round after it.

    Raises:
        Superseded: the assignment is counted, failed already, or has expired.
    """

    assignment: AssignmentRecord
    session_shape: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AddDevice:
    """Add a device that has just enrolled. There is no result.

    Raises:
        PopulationGone: the population was deleted.
    """

    device: DeviceRecord


@dataclass(frozen=True, slots=True)
class CountReports:
    """Store the process's new partial aggregate and mark the reports that are new in it, both or neither.

    The result is the round after it.

    Raises:
        PartialSuperseded: the stored partial aggregate is not ``replaces``.
        Superseded: the round takes no reports any more.
        AssignmentsNotOpen: some reports have no open assignment, or their devices are not enrolled; the
            error names them.
    """

    #: The process's sum for the round, with these reports in it.
    partial: PartialRecord
    #: The new reports, at least one.
    reports: Sequence[CountedReport]
    #: The time of the flush.
    at: datetime
    #: The key of the process's partial aggregate before; None if this is its first one.
    replaces: str | None = None


Operation = TakeSlot | GiveBack | AddDevice | CountReports
#: What an operation gave: its result, or the error that it raises.
OperationOutcome = RoundRecord | Exception | None


class GroupWriter(Protocol):
    """Commits operations in groups."""

    async def commit(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        """Commit these operations in one transaction, in this order.

        Guarantees:
            An operation that is refused changes nothing, and does not keep the others from being written.
            All the others are durable when this returns; if it raises, none of them was written, except
            where the store has lost the answer to its commit.
        Returns:
            The outcome of each operation, in order.
        Raises:
            StorageError: the store cannot be used now.
        """
        ...
