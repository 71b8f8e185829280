"""The interface to the release history of populations."""

from typing import Protocol

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.operator_records import ReleaseRecord


class ReleaseRepository(Protocol):
    """Stores what keyboards serve, append-only: the newest row of a population is its release state.

    A population is created with row 0, which releases its version 0.
    """

    async def append(self, record: ReleaseRecord, *, audit: AuditContext) -> None:
        """Append a row, which is the population's release state from then on.

        Args:
            record: The row; its sequence number is one more than that of the row that it was decided on.
            audit: Who releases and why.
        Raises:
            Superseded: the newest row is another one, or a version that the row names was deleted or
                withdrawn; nothing was changed.
            PopulationGone: the population was deleted.
        """
        ...

    async def newest(self, population: PopulationName) -> ReleaseRecord | None:
        """Return the release state of a population; None if there is no such population."""
        ...

    async def all_newest(self) -> dict[PopulationName, ReleaseRecord]:
        """Return the release state of each population."""
        ...

    async def page(self, population: PopulationName, before: int | None, limit: int) -> list[ReleaseRecord]:
        """Return a page of a population's history, newest first, of sequence numbers below ``before``."""
        ...
