"""Leases in memory."""

from dataclasses import replace
from datetime import datetime, timedelta

from tests.memory_store.rows import MemoryRows

from keyflock_server.storage.records import LeaseRecord


class MemoryLeaseRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def acquire(self, name: str, holder: str, ttl_s: float, now: datetime) -> LeaseRecord:
        before = self._rows.leases.get(name)
        expires_at = now + timedelta(seconds=ttl_s)
        if before is None:
            after = LeaseRecord(name=name, holder=holder, epoch=1, expires_at=expires_at)
        elif before.holder == holder:
            after = replace(before, expires_at=expires_at)
        elif not before.holder or not now < before.expires_at <= now + 2 * (expires_at - now):
            after = replace(before, holder=holder, epoch=before.epoch + 1, expires_at=expires_at)
        else:
            after = before
        self._rows.leases[name] = after
        return after

    async def release(self, name: str, holder: str) -> None:
        before = self._rows.leases.get(name)
        if before is not None and before.holder == holder:
            self._rows.leases[name] = replace(before, holder="")

    async def held(self, prefix: str, now: datetime) -> list[LeaseRecord]:
        rows = (self._rows.leases[name] for name in sorted(self._rows.leases) if name.startswith(prefix))
        return [row for row in rows if row.holder and row.expires_at > now]
