"""The interface to revoked device tokens."""

from datetime import datetime
from typing import Protocol

from keyflock_server.storage.records import RevocationRecord


class RevocationRepository(Protocol):
    """Stores revocations of device tokens that have not expired."""

    async def get(self, device_digest: str) -> RevocationRecord | None:
        """Return the revocation of one device's tokens, or None."""
        ...

    async def since(self, written_at: datetime | None) -> list[RevocationRecord]:
        """Return the revocations that were written at that instant or later; None returns all of them."""
        ...

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows whose tokens have all expired; return their number."""
        ...
