"""Populations and model versions in SQL."""

from dataclasses import asdict

from sqlalchemy import Row, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.storage.door import AlreadyExists
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.tables import populations, versions


class SqlPopulations:
    """``door.PopulationTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        """A new population with its version 0."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(populations).values(asdict(population)))
                await connection.execute(insert(versions).values(asdict(version)))
        except IntegrityError:
            raise AlreadyExists(population.name) from None

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """One population."""
        query = select(populations).where(populations.c.name == name)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _population(row)

    async def all(self) -> list[PopulationRecord]:
        """All, by name."""
        async with self._reader.connect() as connection:
            rows = await connection.execute(select(populations).order_by(populations.c.name))
        return [_population(row) for row in rows]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        """One version."""
        query = select(versions).where(versions.c.population == name, versions.c.version == version)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _version(row)

    async def versions(self) -> list[VersionRecord]:
        """All versions of all populations."""
        query = select(versions).order_by(versions.c.population, versions.c.version)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [_version(row) for row in rows]


def _population(row: Row[tuple[object, ...]]) -> PopulationRecord:
    return PopulationRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping


def _version(row: Row[tuple[object, ...]]) -> VersionRecord:
    return VersionRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
