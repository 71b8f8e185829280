"""Encrypted heads in SQL."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Final

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.door import Superseded
from keyflock_server.storage.records import HeadRecord
from keyflock_server.storage.sql.engine import BUSY_TIMEOUT_MS, bare, reader_of
from keyflock_server.storage.tables import heads

_COLUMNS: Final = tuple(heads.c[field.name] for field in fields(HeadRecord))
#: How long emptying SQLite's log waits for those who read it: nobody can write meanwhile.
_SCRUB_WAIT_MS: Final = 250
#: Whether another transaction in this database holds a snapshot, and with it rows that were deleted since.
_IS_SEEN: Final = """
    SELECT EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND backend_xmin IS NOT NULL
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid())
"""


class SqlHeads:
    """``door.HeadTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)
        self._bare = bare(engine)

    async def put(self, record: HeadRecord, replaces: bytes | None) -> None:
        """The owner's head from now on."""
        try:
            await self._put(record, replaces)
        except IntegrityError:
            # Another writer was first with this owner's first head; this time there is a row to meet.
            await self._put(record, replaces)

    async def _put(self, record: HeadRecord, replaces: bytes | None) -> None:
        row = (heads.c.population == record.population) & (heads.c.owner == record.owner)
        async with self._engine.begin() as connection:
            found = await connection.execute(select(heads.c.tag).where(row).with_for_update())
            there = found.scalar_one_or_none()
            if replaces is not None and (there or b"") != replaces:
                raise Superseded
            change = insert(heads) if there is None else update(heads).where(row)
            await connection.execute(change.values({**asdict(record), "size_bytes": len(record.sealed)}))

    async def get(self, population: PopulationName, owner: str) -> HeadRecord | None:
        """One owner's head."""
        query = select(*_COLUMNS).where(heads.c.population == population, heads.c.owner == owner)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else HeadRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def size(self, population: PopulationName, owner: str) -> int:
        """Bytes of one owner's head, sealed; 0: there is none."""
        query = select(heads.c.size_bytes).where(heads.c.population == population, heads.c.owner == owner)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def stored_bytes(self) -> int:
        """Bytes of all heads, sealed."""
        query = select(func.coalesce(func.sum(heads.c.size_bytes), 0))
        async with self._reader.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete; how many there were."""
        theirs = (heads.c.population == population) & heads.c.owner.in_(owners)
        async with self._engine.begin() as connection:
            return (await connection.execute(delete(heads).where(theirs))).rowcount

    async def scrub(self) -> bool:
        """Take what was deleted out of the files.

        SQLite: pages are zeroed by ``secure_delete``, the log is emptied by a checkpoint; that keeps writers
        waiting as long as it waits for a reader, so it does not wait long. PostgreSQL: a
        vacuum gives the place of deleted rows free, which transactions that still see them prevent.
        """
        async with self._bare.connect() as connection:
            if connection.dialect.name == "sqlite":
                await connection.execute(text(f"PRAGMA busy_timeout={_SCRUB_WAIT_MS}"))
                try:
                    busy, _, _ = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()
                finally:
                    await connection.execute(text(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}"))
                return bool(busy == 0)
            is_seen = (await connection.execute(text(_IS_SEEN))).scalar_one()
            await connection.execute(text(f"VACUUM {heads.name}"))
        return not is_seen

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[HeadRecord]:
        """The next heads that are not under this key, by owner."""
        others = (heads.c.key_id != key_id) & (heads.c.owner > after)
        query = select(*_COLUMNS).where(others).order_by(heads.c.owner).limit(limit)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [HeadRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        row = (heads.c.population == record.population) & (heads.c.owner == record.owner)
        change = update(heads).where(row, heads.c.sealed == before)
        async with self._engine.begin() as connection:
            await connection.execute(
                change.values(key_id=record.key_id, sealed=record.sealed, size_bytes=len(record.sealed))
            )
