"""Operators' idempotency keys in memory."""

from dataclasses import replace
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.storage.operator_records import IdempotencyRecord


class MemoryIdempotencyRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._keys = rows.idempotency_keys

    async def claim(self, record: IdempotencyRecord, abandoned_before: datetime) -> IdempotencyRecord | None:
        known = self._keys.get((record.operator, record.key))
        if known is not None and (known.is_complete or known.created_at >= abandoned_before):
            return known
        self._keys[record.operator, record.key] = record
        return None

    async def complete(self, operator: str, key: str, status: int, body: bytes) -> None:
        if (known := self._keys.get((operator, key))) is not None:
            self._keys[operator, key] = replace(known, status=status, body=body)

    async def release(self, operator: str, key: str) -> None:
        known = self._keys.get((operator, key))
        if known is not None and not known.is_complete:
            del self._keys[operator, key]

    async def prune(self, created_before: datetime, limit: int) -> int:
        old = [key for key, one in self._keys.items() if one.created_at < created_before][:limit]
        for key in old:
            del self._keys[key]
        return len(old)
