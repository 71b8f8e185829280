"""Encrypted heads in SQL."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.door import Superseded
from keyflock_server.storage.records import HeadRecord
from keyflock_server.storage.sql.engine import bare, reader_of
from keyflock_server.storage.tables import heads


class SqlHeads:
    """``door.HeadTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)
        self._bare = bare(engine)

    async def put(self, record: HeadRecord, replaces: bytes | None) -> None:
        """The owner's head from now on."""
        row = (heads.c.population == record.population) & (heads.c.owner == record.owner)
        async with self._engine.begin() as connection:
            there = (await connection.execute(select(heads.c.tag).where(row))).scalar_one_or_none()
            if replaces is not None and (there or b"") != replaces:
                raise Superseded
            change = insert(heads) if there is None else update(heads).where(row)
            await connection.execute(change.values(asdict(record)))

    async def get(self, population: PopulationName, owner: str) -> HeadRecord | None:
        """One owner's head."""
        query = select(heads).where(heads.c.population == population, heads.c.owner == owner)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else HeadRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete; how many there were."""
        theirs = (heads.c.population == population) & heads.c.owner.in_(owners)
        async with self._engine.begin() as connection:
            return (await connection.execute(delete(heads).where(theirs))).rowcount

    async def scrub(self) -> bool:
        """Overwrite what was deleted: SQLite's pages are zeroed by secure_delete, its log by a checkpoint."""
        if self._engine.dialect.name != "sqlite":
            return False
        async with self._bare.connect() as connection:
            busy, _, _ = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()
        return bool(busy == 0)

    async def under_other_keys(self, key_id: str, limit: int) -> list[HeadRecord]:
        """Some heads that are not under this key."""
        query = select(heads).where(heads.c.key_id != key_id).order_by(heads.c.owner).limit(limit)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [HeadRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        row = (heads.c.population == record.population) & (heads.c.owner == record.owner)
        change = update(heads).where(row, heads.c.sealed == before)
        async with self._engine.begin() as connection:
            await connection.execute(change.values(key_id=record.key_id, sealed=record.sealed))
