"""Encrypted personal models in SQL."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.records import PersonalModelRecord
from keyflock_server.storage.sql.engine import BUSY_TIMEOUT_MS
from keyflock_server.storage.sql.population_rows import require_population
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import personal_models

_COLUMNS: Final = tuple(personal_models.c[field.name] for field in fields(PersonalModelRecord))
#: How long a checkpoint of SQLite's log waits for readers; writers are blocked meanwhile.
_SCRUB_WAIT_MS: Final = 250
#: Whether another transaction in this database has a snapshot, which may still see deleted rows.
_IS_SEEN: Final = """
    SELECT EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND backend_xmin IS NOT NULL
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid())
"""


class SqlPersonalModelRepository:
    """Implements ``PersonalModelRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def put(self, record: PersonalModelRecord, replaces: bytes | None) -> None:
        """Store an owner's personal model."""
        try:
            await self._put(record, replaces)
        except IntegrityError:
            # Another writer has just inserted this owner's row; the second try updates it.
            await self._put(record, replaces)

    async def _put(self, record: PersonalModelRecord, replaces: bytes | None) -> None:
        row = (personal_models.c.population == record.population) & (personal_models.c.owner == record.owner)

        def transaction(connection: Connection) -> None:
            require_population(connection, record.population)
            found = connection.execute(select(personal_models.c.tag).where(row).with_for_update())
            there = found.scalar_one_or_none()
            if replaces is not None and (there or b"") != replaces:
                raise Superseded
            change = insert(personal_models) if there is None else update(personal_models).where(row)
            connection.execute(change.values({**asdict(record), "size_bytes": len(record.sealed)}))

        await self._transactions.run(transaction)

    async def get(self, population: PopulationName, owner: str) -> PersonalModelRecord | None:
        """Return one owner's personal model, or None."""
        query = select(*_COLUMNS).where(
            personal_models.c.population == population, personal_models.c.owner == owner
        )
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else PersonalModelRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def size(self, population: PopulationName, owner: str) -> int:
        """Return the size of one owner's encrypted model in bytes; 0 if there is none."""
        query = select(personal_models.c.size_bytes).where(
            personal_models.c.population == population, personal_models.c.owner == owner
        )
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def stored_bytes(self) -> int:
        """Return the size of all encrypted models in bytes."""
        query = select(func.coalesce(func.sum(personal_models.c.size_bytes), 0))
        async with self._reader.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete the models of these owners; return how many there were."""
        theirs = (personal_models.c.population == population) & personal_models.c.owner.in_(owners)
        return await self._transactions.run(rows_changed, delete(personal_models).where(theirs))

    async def owners(self, population: PopulationName, limit: int) -> list[str]:
        """Return some owners who have a model in this population."""
        query = select(personal_models.c.owner).where(personal_models.c.population == population)
        async with self._reader.connect() as connection:
            return list(await connection.scalars(query.limit(limit)))

    async def scrub(self) -> bool:
        """Remove deleted models from the files.

        SQLite: ``secure_delete`` zeroes pages, and a checkpoint empties the log. The checkpoint blocks
        writers while it waits for a reader, so it does not wait long. PostgreSQL: a vacuum frees the space of
        deleted rows, unless a transaction can still see them.
        """
        return await self._transactions.run_outside(_scrub)

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[PersonalModelRecord]:
        """Return the next models encrypted with other keys, ordered by owner."""
        others = (personal_models.c.key_id != key_id) & (personal_models.c.owner > after)
        query = select(*_COLUMNS).where(others).order_by(personal_models.c.owner).limit(limit)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [PersonalModelRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def reseal(self, record: PersonalModelRecord, before: bytes) -> None:
        """Store the same model encrypted with another key, if the stored bytes are still ``before``."""
        row = (personal_models.c.population == record.population) & (personal_models.c.owner == record.owner)
        change = update(personal_models).where(row, personal_models.c.sealed == before)
        sealed = change.values(key_id=record.key_id, sealed=record.sealed, size_bytes=len(record.sealed))
        await self._transactions.run(rows_changed, sealed)


def _scrub(connection: Connection) -> bool:
    """Scrub over a connection without a transaction; return whether no other transaction prevented it."""
    if connection.dialect.name == "sqlite":
        connection.execute(text(f"PRAGMA busy_timeout={_SCRUB_WAIT_MS}"))
        try:
            busy, _, _ = connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()
        finally:
            connection.execute(text(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}"))
        return bool(busy == 0)
    is_seen = connection.execute(text(_IS_SEEN)).scalar_one()
    connection.execute(text(f"VACUUM {personal_models.name}"))
    return not is_seen
