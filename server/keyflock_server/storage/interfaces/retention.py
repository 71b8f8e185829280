"""The interface that deletes expired rows."""

from typing import Protocol

from keyflock_server.storage.retention import ExpiredRows, PrunedRows, UnprovenDevices


class RetentionRepository(Protocol):
    """Deletes rows that a retention policy has expired."""

    async def count(self, expired: ExpiredRows) -> PrunedRows:
        """Count the rows that ``delete`` would delete."""
        ...

    async def delete(self, expired: ExpiredRows) -> PrunedRows:
        """Delete the expired rows, all or none. Devices that take part in an unfinished round stay."""
        ...

    async def delete_unproven(self, unproven: UnprovenDevices, limit: int) -> int:
        """Delete at most ``limit`` of the devices that ``unproven`` describes; return their number.

        Devices that take part in an unfinished round stay.
        """
        ...
