"""Tombstones of forgotten devices in SQL."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.storage.records import TombstoneRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.tables import tombstones


class SqlTombstoneRepository:
    """Implements ``TombstoneRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        """Write tombstones, merged with stored ones of the same digests."""
        async with self._engine.begin() as connection:
            await write_tombstones(connection, records)

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        """Return the tombstones of these digests that are still valid, ordered by digest."""
        query = select(tombstones).where(tombstones.c.digest.in_(digests), tombstones.c.until > now)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query.order_by(tombstones.c.digest))).all()
        return [TombstoneRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows that are not valid any more; return their number."""
        over = select(tombstones.c.digest).where(tombstones.c.until <= now).limit(limit)
        async with self._engine.begin() as connection:
            deleted = await connection.execute(
                # A row that was renewed meanwhile stays.
                delete(tombstones).where(tombstones.c.digest.in_(over), tombstones.c.until <= now)
            )
            return deleted.rowcount


async def write_tombstones(connection: AsyncConnection, records: Collection[TombstoneRecord]) -> None:
    """Merge with what is there, within the caller's transaction and in one order everywhere."""
    for record in sorted(records, key=lambda one: one.digest):
        if not await _merged(connection, record):
            try:
                async with connection.begin_nested():
                    await connection.execute(insert(tombstones).values(asdict(record)))
            except IntegrityError:  # another transaction was faster
                await _merged(connection, record)


async def _merged(connection: AsyncConnection, record: TombstoneRecord) -> bool:
    """Merge a stored tombstone with this one; return whether there was one."""
    here = tombstones.c.digest == record.digest
    row = (await connection.execute(select(tombstones).where(here).with_for_update())).one_or_none()
    if row is None:
        return False
    known = TombstoneRecord(**row._mapping)  # noqa: SLF001 - the documented name
    await connection.execute(update(tombstones).where(here).values(asdict(known.merged(record))))
    return True
