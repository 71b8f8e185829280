"""The release history of populations in SQL."""

from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, exists, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.storage.audit_documents import release_document
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.population_rows import IS_THERE
from keyflock_server.storage.sql.rows import damaged_row
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import populations, releases, versions

_later: Final = releases.alias("later")
#: The condition of the newest row of its population.
_IS_NEWEST: Final = ~(
    exists()
    .where(_later.c.population == releases.c.population, _later.c.sequence > releases.c.sequence)
    .correlate(releases)
)
#: The condition of a model version that keyboards may be served now.
IS_RELEASED: Final[ColumnElement[bool]] = (
    exists()
    .where(
        releases.c.population == versions.c.population,
        or_(releases.c.version == versions.c.version, releases.c.candidate == versions.c.version),
        _IS_NEWEST,
    )
    .correlate(versions)
)


class SqlReleaseRepository:
    """Implements ``ReleaseRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def append(self, record: ReleaseRecord, *, audit: AuditContext) -> None:
        """Append a row, which is the population's release state from then on."""
        its_row = select(populations.c.name).where(populations.c.name == record.population, IS_THERE)
        named = [versions.c.version == version for version in record.versions]
        # Locked, so that none of them is pruned before this is committed.
        its_versions = (
            select(versions.c.version)
            .where(versions.c.population == record.population, versions.c.withdrawn_at.is_(None), or_(*named))
            .order_by(versions.c.version)
            .with_for_update(read=True, key_share=True)
        )

        def transaction(connection: Connection) -> None:
            if connection.execute(its_row.with_for_update()).one_or_none() is None:
                raise PopulationGone(record.population)
            if len(list(connection.scalars(its_versions))) != len(set(record.versions)):
                raise Superseded(record.population)
            append_release(connection, record, audit)

        await self._transactions.run(transaction)

    async def newest(self, population: PopulationName) -> ReleaseRecord | None:
        """Return the release state of a population; None if there is no such population."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(newest_release, population)

    async def all_newest(self) -> dict[PopulationName, ReleaseRecord]:
        """Return the release state of each population."""
        query = select(releases).join(populations).where(IS_THERE, _IS_NEWEST)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query.order_by(releases.c.population))
        return {PopulationName(row.population): _release(row) for row in rows}

    async def page(self, population: PopulationName, before: int | None, limit: int) -> list[ReleaseRecord]:
        """Return a page of a population's history, newest first."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(release_history, population, before, limit)


def newest_release(connection: Connection, population: str) -> ReleaseRecord | None:
    """Return the release state of a population that is not deleted."""
    query = select(releases).join(populations).where(releases.c.population == population, IS_THERE)
    row = connection.execute(query.order_by(releases.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _release(row)


def release_history(
    connection: Connection, population: str, before: int | None, limit: int
) -> list[ReleaseRecord]:
    """Return a page of a population's history, newest first."""
    query = select(releases).where(releases.c.population == population)
    if before is not None:
        query = query.where(releases.c.sequence < before)
    rows = connection.execute(query.order_by(releases.c.sequence.desc()).limit(limit))
    return [_release(row) for row in rows]


def append_release(connection: Connection, record: ReleaseRecord, audit: AuditContext) -> None:
    """Append a row within the transaction of a caller that has locked the population; raises Superseded."""
    with audited(connection, audit, SubjectKind.RELEASE, record.population, _document):
        newest = newest_release(connection, record.population)
        if record.sequence != (0 if newest is None else newest.sequence + 1):
            raise Superseded(record.population)
        connection.execute(insert(releases).values(asdict(record)))


def _document(connection: Connection, population: str) -> Document | None:
    newest = newest_release(connection, population)
    return None if newest is None else release_document(newest)


def _release(row: Row[Any]) -> ReleaseRecord:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    with damaged_row(f"release {row.sequence} of {row.population}"):
        return ReleaseRecord(**columns | {"action": ReleaseAction(row.action)})
