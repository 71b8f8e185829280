"""Tombstones of forgotten devices in SQL."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.records import TombstoneRecord
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import tombstones


class SqlTombstoneRepository:
    """Implements ``TombstoneRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        """Write tombstones, merged with stored ones of the same digests."""
        await self._transactions.run(write_tombstones, records)

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        """Return the tombstones of these digests that are still valid, ordered by digest."""
        query = select(tombstones).where(tombstones.c.digest.in_(digests), tombstones.c.until > now)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query.order_by(tombstones.c.digest))).all()
        return [TombstoneRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows that are not valid any more; return their number."""
        over = select(tombstones.c.digest).where(tombstones.c.until <= now).limit(limit)
        # A row that was renewed meanwhile stays.
        gone = delete(tombstones).where(tombstones.c.digest.in_(over), tombstones.c.until <= now)
        return await self._transactions.run(rows_changed, gone)


def write_tombstones(connection: Connection, records: Collection[TombstoneRecord]) -> None:
    """Merge with what is there, within the caller's transaction and in one order everywhere."""
    for record in sorted(records, key=lambda one: one.digest):
        if not _merged(connection, record):
            try:
                with connection.begin_nested():
                    connection.execute(insert(tombstones).values(asdict(record)))
            except IntegrityError:  # another transaction was faster
                _merged(connection, record)


def _merged(connection: Connection, record: TombstoneRecord) -> bool:
    """Merge a stored tombstone with this one; return whether there was one."""
    here = tombstones.c.digest == record.digest
    row = connection.execute(select(tombstones).where(here).with_for_update()).one_or_none()
    if row is None:
        return False
    known = TombstoneRecord(**row._mapping)  # noqa: SLF001 - the documented name
    connection.execute(update(tombstones).where(here).values(asdict(known.merged(record))))
    return True
