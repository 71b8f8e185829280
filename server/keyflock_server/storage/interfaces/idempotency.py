"""The interface to the keys by which a repeated creation gets the answer of the first one."""

from datetime import datetime
from typing import Protocol

from keyflock_server.storage.operator_records import IdempotencyRecord


class IdempotencyRepository(Protocol):
    """Stores operators' idempotency keys."""

    async def claim(self, record: IdempotencyRecord, abandoned_before: datetime) -> IdempotencyRecord | None:
        """Store the key of a creation that begins, unless it is known.

        Args:
            record: The key, not complete.
            abandoned_before: A creation that began before this instant and was never answered is lost: its
                process was killed, and the key is claimed anew.
        Returns:
            The stored record if the key is known; None once it is claimed.
        """
        ...

    async def complete(self, operator: str, key: str, status: int, body: bytes) -> None:
        """Store the answer of the creation."""
        ...

    async def release(self, operator: str, key: str) -> None:
        """Delete the key of a creation that was refused, so that it may be tried again."""
        ...

    async def prune(self, created_before: datetime, limit: int) -> int:
        """Delete at most ``limit`` keys that were claimed before this instant; return their number."""
        ...
