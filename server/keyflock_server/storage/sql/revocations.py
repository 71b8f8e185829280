"""Revocations of device tokens in SQL."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.records import RevocationRecord
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.sql.upserts import insert_or_update
from keyflock_server.storage.tables import revocations


class SqlRevocationRepository:
    """Implements ``RevocationRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def get(self, device_digest: str) -> RevocationRecord | None:
        """Return the revocation of one device's tokens, or None."""
        query = select(revocations).where(revocations.c.device_digest == device_digest)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else RevocationRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def since(self, written_at: datetime | None) -> list[RevocationRecord]:
        """Return the revocations that were written at that instant or later; None returns all of them."""
        query = select(revocations)
        if written_at is not None:
            query = query.where(revocations.c.written_at >= written_at)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [RevocationRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows whose tokens have all expired; return their number."""
        over = select(revocations.c.device_digest).where(revocations.c.until <= now).limit(limit)
        # A row that was renewed meanwhile stays.
        gone = delete(revocations).where(revocations.c.device_digest.in_(over), revocations.c.until <= now)
        return await self._transactions.run(rows_changed, gone)


def write_revocations(connection: Connection, records: Collection[RevocationRecord]) -> None:
    """Write within the caller's transaction, always in one order, so that two writers never deadlock."""
    new = insert_or_update(connection, revocations)
    written = new.on_conflict_do_update(
        index_elements=["device_digest"],
        set_={name: new.excluded[name] for name in ("generation", "effective_at", "until", "written_at")},
    )
    for record in sorted(records, key=lambda one: one.device_digest):
        connection.execute(written, asdict(record))
