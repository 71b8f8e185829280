"""The interface to leases."""

from datetime import datetime
from typing import Protocol

from keyflock_server.storage.records import LeaseRecord


class LeaseRepository(Protocol):
    """Stores leases. They save work; it is the round repository that lets nothing happen twice."""

    async def acquire(self, name: str, holder: str, ttl_s: float, now: datetime) -> LeaseRecord:
        """Take the lease, or renew it, if no other process holds it.

        A lease that ends more than twice ``ttl_s`` from now was taken by a wrong clock: its holder may have
        died, so the lease is free.

        Returns:
            The lease as it is now, with its current holder.
        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """Release the lease at once; do nothing if this holder does not have it."""
        ...

    async def held(self, prefix: str, now: datetime) -> list[LeaseRecord]:
        """Return the unexpired leases whose names have this prefix, ordered by name."""
        ...
