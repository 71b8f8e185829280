"""Populations and model versions in SQL."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.numbered_names import by_number, numbered_prefix
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.storage.audit_documents import version_document
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, Superseded
from keyflock_server.storage.interfaces.populations import PopulationChanges, RollbackResult
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.release_rows import (
    HISTORY,
    first_release,
    release_after_rollback,
    served_versions,
)
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.lock_order import lock_rows
from keyflock_server.storage.sql.population_deletion import (
    delete_rounds,
    find_deleting,
    finish_deletion,
    mark_deleted,
)
from keyflock_server.storage.sql.population_rows import (
    IS_THERE,
    POPULATION_COLUMNS,
    lock_population,
    population_document_of,
    population_record,
)
from keyflock_server.storage.sql.releases import append_release, release_history
from keyflock_server.storage.sql.round_rows import discard_unpublished
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import population_names, populations, tasks, versions


class SqlPopulationRepository:
    """Implements ``PopulationRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, population: PopulationRecord, version: VersionRecord, *, audit: AuditContext) -> None:
        """Add a population with its version 0, and release that."""
        name = population.name
        released = first_release(name, version.version, population.created_at, audit)

        def transaction(connection: Connection) -> None:
            with audited(connection, audit, SubjectKind.POPULATION, name, population_document_of):
                connection.execute(insert(populations).values(asdict(population)))
                for one in sorted({name, population.shown_name}):
                    connection.execute(insert(population_names).values(_name_row(name, one)))
                connection.execute(insert(versions).values(asdict(version)))
                append_release(connection, released, audit)

        try:
            await self._transactions.run(transaction)
        except IntegrityError:
            raise AlreadyExists(population.name) from None

    async def change(
        self,
        name: PopulationName,
        changes: PopulationChanges,
        *,
        audit: AuditContext,
    ) -> PopulationRecord:
        """Change a population's columns, and return it."""

        def transaction(connection: Connection) -> PopulationRecord:
            with audited(connection, audit, SubjectKind.POPULATION, name, population_document_of):
                before = lock_population(connection, name)
                after = replace(before, **changes)
                if after == before:
                    return before
                after = replace(after, revision=before.revision + 1)
                mine = update(populations).where(populations.c.name == name)
                connection.execute(mine.values(**changes, revision=after.revision))
                return after

        return await self._transactions.run(transaction)

    async def ids_of(self, name: PopulationName) -> list[PopulationName]:
        """Return the ids of all populations that were created under this name, also of deleted ones."""
        is_numbered = populations.c.name.startswith(numbered_prefix(name), autoescape=True)
        query = select(populations.c.name).where((populations.c.name == name) | is_numbered)
        async with self._reader.connect() as connection:
            return by_number(PopulationName(id_) for id_ in await connection.scalars(query))

    async def resolve(self, name: str) -> PopulationName | None:
        """Return the id of the population that has, or once had, this name; None if there is none."""
        query = select(population_names.c.population).where(population_names.c.name == name)
        async with self._reader.connect() as connection:
            found = (await connection.execute(query)).scalar_one_or_none()
        return None if found is None else PopulationName(found)

    async def names(self, name: PopulationName) -> list[PopulationName]:
        """Return all names that resolve to a population, in order."""
        query = select(population_names.c.name).where(population_names.c.population == name)
        async with self._reader.connect() as connection:
            found = await connection.scalars(query.order_by(population_names.c.name))
            return [PopulationName(one) for one in found]

    async def rename(self, name: PopulationName, to: PopulationName, *, audit: AuditContext) -> None:
        """Give a population another name; those that it had still resolve to it."""
        owner = select(population_names.c.population).where(population_names.c.name == to)

        def transaction(connection: Connection) -> None:
            with audited(connection, audit, SubjectKind.POPULATION, name, population_document_of):
                before = lock_population(connection, name)
                known = connection.execute(owner).scalar_one_or_none()
                if known not in (None, name):
                    raise AlreadyExists(to)
                if known is None:
                    connection.execute(insert(population_names).values(_name_row(name, to)))
                if before.shown_name != to:
                    change = update(populations).where(populations.c.name == name)
                    connection.execute(change.values(current_name=to, revision=before.revision + 1))

        try:
            await self._transactions.run(transaction)
        except IntegrityError:  # another transaction was faster
            raise AlreadyExists(to) from None

    async def mark_deleted(self, name: PopulationName, at: datetime, *, audit: AuditContext) -> None:
        """Delete a population for everybody; its rows are deleted by the calls that follow."""

        def transaction(connection: Connection) -> None:
            with audited(connection, audit, SubjectKind.POPULATION, name, population_document_of):
                mark_deleted(connection, name, at)

        await self._transactions.run(transaction)

    async def deleting(self) -> list[PopulationName]:
        """Return the deleted populations that still have rows."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(find_deleting)

    async def delete_rounds(self, name: PopulationName, limit: int) -> int:
        """Delete some rounds of a deleted population, with their assignments; return their number."""
        return await self._transactions.run(delete_rounds, name, limit)

    async def finish_deletion(self, name: PopulationName) -> tuple[str, ...]:
        """Delete tasks, versions and release history of a deleted population without rounds and devices."""
        return await self._transactions.run(finish_deletion, name)

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """Return the population of this id, or None."""
        query = select(*POPULATION_COLUMNS).where(populations.c.name == name, IS_THERE)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else population_record(row)

    async def all(self) -> list[PopulationRecord]:
        """Return all populations, ordered by id."""
        async with self._reader.connect() as connection:
            rows = await connection.execute(
                select(*POPULATION_COLUMNS).where(IS_THERE).order_by(populations.c.name)
            )
        return [population_record(row) for row in rows]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        """Return this version of a population, or None."""
        query = select(versions).where(versions.c.population == name, versions.c.version == version)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _version(row)

    async def versions(self) -> list[VersionRecord]:
        """Return all versions of all populations."""
        query = select(versions).join(populations).where(IS_THERE)
        query = query.order_by(versions.c.population, versions.c.version)
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

    async def set_pinned(
        self, name: PopulationName, version: ModelVersion, pinned_at: datetime | None, *, audit: AuditContext
    ) -> VersionRecord | None:
        """Pin a version, or unpin it with None; return it, or None if there is none."""
        is_pinned = versions.c.pinned_at.is_not(None)
        mine = (versions.c.population == name) & (versions.c.version == version)
        differs = is_pinned if pinned_at is None else ~is_pinned

        def transaction(connection: Connection) -> VersionRecord | None:
            with audited(
                connection, audit, SubjectKind.VERSION, _version_id(name, version), _version_document
            ):
                connection.execute(update(versions).where(mine, differs).values(pinned_at=pinned_at))
            row = connection.execute(select(versions).where(mine)).one_or_none()
            return None if row is None else _version(row)

        return await self._transactions.run(transaction)

    async def version_page(
        self, name: PopulationName, before: ModelVersion | None, limit: int
    ) -> list[VersionRecord]:
        """Return a page of a population's versions, newest first."""
        query = select(versions).where(versions.c.population == name)
        if before is not None:
            query = query.where(versions.c.version < before)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query.order_by(versions.c.version.desc()).limit(limit))
        return [_version(row) for row in rows]

    async def roll_back(
        self,
        version: VersionRecord,
        latest: ModelVersion,
        reason: str,
        *,
        audit: AuditContext,
    ) -> RollbackResult:
        """Make ``version`` the newest version, and withdraw all versions between it and its parent."""
        name, at, to = version.population, version.created_at, version.parent
        if to is None:
            raise Superseded(name)
        mine = versions.c.population == name
        is_served = mine & (versions.c.version == to) & versions.c.withdrawn_at.is_(None)
        between = mine & (versions.c.version > to) & versions.c.withdrawn_at.is_(None)
        its_tasks = (tasks.c.population == name) & tasks.c.optimizer_state_key.is_not(None)
        standing = mine & (versions.c.version <= to) & versions.c.withdrawn_at.is_(None)

        def transaction(connection: Connection) -> RollbackResult:
            # In the order of ``lock_order``: rounds, the population, its versions, its tasks.
            rounds = discard_unpublished(
                connection, name, lambda current: discarded_by_rollback(current, to, reason), at
            )
            with audited(connection, audit, SubjectKind.POPULATION, name, population_document_of):
                return RollbackResult(rounds, restore(connection))

        def restore(connection: Connection) -> tuple[str, ...]:
            before = lock_population(connection, name)
            restored = connection.execute(select(versions.c.version).where(is_served)).first()
            if before.latest_version != latest or restored is None:
                raise Superseded(name)
            changed: dict[str, Any] = {
                "latest_version": version.version,
                "average_key": None,
                "revision": before.revision + 1,
            }
            if version.anchor_loss is not None:
                changed["anchor_loss_chosen"] = version.anchor_loss
            connection.execute(update(populations).where(populations.c.name == name).values(changed))
            lock_rows(connection, versions, between)
            connection.execute(update(versions).where(between).values(withdrawn_at=at))
            connection.execute(insert(versions).values(asdict(version)))
            states = select(tasks.c.optimizer_state_key).where(its_tasks).order_by(tasks.c.name)
            keys = [before.average_key, *connection.scalars(states.with_for_update())]
            connection.execute(update(tasks).where(its_tasks).values(optimizer_state_key=None))
            history = release_history(connection, name, None, HISTORY)
            served = select(versions.c.version).where(
                standing, versions.c.version.in_(served_versions(history))
            )
            left = set(connection.scalars(served))
            released = next((one for one in served_versions(history) if one in left), version.version)
            new = history and release_after_rollback(history[0], to, released, at, reason, audit)
            if new:
                append_release(connection, new, audit)
            return tuple(key for key in keys if key is not None)

        try:
            return await self._transactions.run(transaction)
        except PopulationGone:
            raise Superseded(name) from None


def _name_row(population: PopulationName, name: PopulationName) -> dict[str, str]:
    return {"name": name, "population": population}


def _version_id(population: PopulationName, version: ModelVersion) -> str:
    return f"{population}/{version}"


def _version_document(connection: Connection, id_: str) -> Document | None:
    population, _, version = id_.rpartition("/")
    mine = (versions.c.population == population) & (versions.c.version == int(version))
    row = connection.execute(select(versions).where(mine).with_for_update()).one_or_none()
    return None if row is None else version_document(_version(row))


def _version(row: Row[tuple[object, ...]]) -> VersionRecord:
    return VersionRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
