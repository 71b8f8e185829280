"""Tombstones in memory."""

from collections.abc import Collection
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.storage.records import TombstoneRecord


class MemoryTombstoneRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        for record in records:
            known = self._rows.tombstones.get(record.digest)
            self._rows.tombstones[record.digest] = record if known is None else known.merged(record)

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        known = (self._rows.tombstones.get(digest) for digest in sorted(set(digests)))
        return [one for one in known if one is not None and one.until > now]

    async def prune(self, now: datetime, limit: int) -> int:
        over = [key for key, one in self._rows.tombstones.items() if one.until <= now][:limit]
        for key in over:
            del self._rows.tombstones[key]
        return len(over)
