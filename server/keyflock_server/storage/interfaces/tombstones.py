"""The interface to tombstones of forgotten devices."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from keyflock_server.storage.records import TombstoneRecord


class TombstoneRepository(Protocol):
    """Stores tombstones: the facts that outlive forgotten devices."""

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        """Write tombstones, merged with stored ones of the same digests."""
        ...

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        """Return the tombstones of these digests that are still valid, ordered by digest."""
        ...

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows that are not valid any more; return their number."""
        ...
