"""Revoked device tokens in memory."""

from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.storage.records import RevocationRecord


class MemoryRevocationRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def get(self, device_digest: str) -> RevocationRecord | None:
        return self._rows.revocations.get(device_digest)

    async def since(self, written_at: datetime | None) -> list[RevocationRecord]:
        every = self._rows.revocations.values()
        return [one for one in every if written_at is None or one.written_at >= written_at]

    async def prune(self, now: datetime, limit: int) -> int:
        over = [key for key, one in self._rows.revocations.items() if one.until <= now][:limit]
        for key in over:
            del self._rows.revocations[key]
        return len(over)
