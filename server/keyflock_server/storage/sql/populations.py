"""Populations and model versions in SQL."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.storage.errors import AlreadyExists, Superseded
from keyflock_server.storage.interfaces.populations import RollbackResult
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.round_rows import discard_unpublished
from keyflock_server.storage.tables import populations, tasks, versions


class SqlPopulationRepository:
    """Implements ``PopulationRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        """Add a population with its version 0."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(populations).values(asdict(population)))
                await connection.execute(insert(versions).values(asdict(version)))
        except IntegrityError:
            raise AlreadyExists(population.name) from None

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """Return the population of this name, or None."""
        query = select(populations).where(populations.c.name == name)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _population(row)

    async def all(self) -> list[PopulationRecord]:
        """Return all populations, ordered by name."""
        async with self._reader.connect() as connection:
            rows = await connection.execute(select(populations).order_by(populations.c.name))
        return [_population(row) for row in rows]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        """Return this version of a population, or None."""
        query = select(versions).where(versions.c.population == name, versions.c.version == version)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _version(row)

    async def versions(self) -> list[VersionRecord]:
        """Return all versions of all populations."""
        query = select(versions).order_by(versions.c.population, versions.c.version)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [_version(row) for row in rows]

    async def withdrawn(self, name: PopulationName) -> frozenset[ModelVersion]:
        """Return the withdrawn versions of a population."""
        query = select(versions.c.version).where(
            versions.c.population == name, versions.c.withdrawn_at.is_not(None)
        )
        async with self._reader.connect() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def roll_back(self, version: VersionRecord, latest: ModelVersion, reason: str) -> RollbackResult:
        """Make ``version`` the newest version, and withdraw all versions between it and its parent."""
        name, at, to = version.population, version.created_at, version.parent
        if to is None:
            raise Superseded(name)
        mine = versions.c.population == name
        is_served = mine & (versions.c.version == to) & versions.c.withdrawn_at.is_(None)
        between = mine & (versions.c.version > to) & versions.c.withdrawn_at.is_(None)
        its_tasks = (tasks.c.population == name) & tasks.c.optimizer_state_key.is_not(None)
        async with self._engine.begin() as connection:
            # Locks rounds first, then the population, then its tasks, as every other transaction does.
            rounds = await discard_unpublished(
                connection, name, lambda current: discarded_by_rollback(current, to, reason), at
            )
            locked = select(populations).where(populations.c.name == name).with_for_update()
            before = (await connection.execute(locked)).one_or_none()
            restored = (await connection.execute(select(versions.c.version).where(is_served))).first()
            if before is None or before.latest_version != latest or restored is None:
                raise Superseded(name)
            changed: dict[str, Any] = {"latest_version": version.version, "average_key": None}
            if version.anchor_loss is not None:
                changed["anchor_loss_chosen"] = version.anchor_loss
            await connection.execute(update(populations).where(populations.c.name == name).values(changed))
            await connection.execute(update(versions).where(between).values(withdrawn_at=at))
            await connection.execute(insert(versions).values(asdict(version)))
            states = select(tasks.c.optimizer_state_key).where(its_tasks).with_for_update()
            keys = [before.average_key, *(await connection.execute(states)).scalars()]
            await connection.execute(update(tasks).where(its_tasks).values(optimizer_state_key=None))
        return RollbackResult(rounds, tuple(key for key in keys if key is not None))


def _population(row: Row[tuple[object, ...]]) -> PopulationRecord:
    return PopulationRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping


def _version(row: Row[tuple[object, ...]]) -> VersionRecord:
    return VersionRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
