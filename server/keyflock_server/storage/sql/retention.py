"""Deletion of expired rows in SQL."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.rounds.round import FINAL_PHASES, LIVE_PHASES
from keyflock_server.storage.retention import ExpiredRows, PrunedRows, UnprovenDevices
from keyflock_server.storage.sql.lock_order import lock_rows
from keyflock_server.storage.sql.releases import IS_RELEASED
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import UNPROVEN, assignments, devices, personal_models, rounds, versions

#: Maximum number of versions in one statement; SQLite takes some thousands of parameters.
_CHUNK: Final = 200
#: Devices in rounds that are not over; selected by live phases, which are few and have an index.
_UNDER_WAY: Final = select(assignments.c.device).join(rounds).where(rounds.c.phase.in_(LIVE_PHASES))
_Act = Callable[[Connection, Table, ColumnElement[bool]], int]


class SqlRetentionRepository:
    """Implements ``RetentionRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def count(self, expired: ExpiredRows) -> PrunedRows:
        """Count the rows that ``delete`` would delete."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(_apply, expired, _count)

    async def delete(self, expired: ExpiredRows) -> PrunedRows:
        """Delete the expired rows, all or none."""
        return await self._transactions.run(_apply, expired, _delete)

    async def delete_unproven(self, unproven: UnprovenDevices, limit: int) -> int:
        """Delete the expired rows, all or none."""
        oldest = (
            select(devices.c.id)
            .where(_is_unproven(unproven), devices.c.id.not_in(_UNDER_WAY))
            .order_by(devices.c.last_seen_at)
            .limit(limit)
        )

        def transaction(connection: Connection) -> int:
            going = sorted(connection.scalars(oldest))
            # Checked again: a device may have checked in meanwhile, or its report may have been counted.
            for start in range(0, len(going), _CHUNK):
                named = devices.c.id.in_(going[start : start + _CHUNK])
                _delete(connection, devices, named & _is_unproven(unproven))
            return len(going)

        return await self._transactions.run(transaction)


def _is_unproven(unproven: UnprovenDevices) -> ColumnElement[bool]:
    """Return the condition of ``UnprovenDevices.include`` in SQL."""
    until = devices.c.quarantined_until
    return and_(
        UNPROVEN,
        devices.c.last_seen_at < unproven.seen_before,
        devices.c.has_head.is_(False),
        or_(until.is_(None), until <= unproven.now),
    )


def _count(connection: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    query = select(func.count()).select_from(table).where(condition)
    return connection.execute(query).scalar_one()


def _delete(connection: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    lock_rows(connection, table, condition)
    return connection.execute(delete(table).where(condition)).rowcount


def _apply(connection: Connection, expired: ExpiredRows, act: _Act) -> PrunedRows:
    over = select(rounds.c.id).where(
        rounds.c.phase.in_(FINAL_PHASES),
        rounds.c.closed_at < expired.rounds_ended_before,
        rounds.c.task.not_in(expired.excluded_tasks),
    )
    unseen = or_(devices.c.last_seen_at < expired.devices_seen_before, _is_unproven(expired.unproven))
    gone_assignments = act(connection, assignments, assignments.c.round_id.in_(over))
    gone_devices = act(connection, devices, unseen & devices.c.id.not_in(_UNDER_WAY))
    gone_versions, named_versions = 0, sorted(expired.versions)
    for start in range(0, len(named_versions), _CHUNK):
        named = [
            and_(versions.c.population == population, versions.c.version == version)
            for population, version in named_versions[start : start + _CHUNK]
        ]
        # Checked again: one of them may have been pinned or released since.
        is_free = versions.c.pinned_at.is_(None) & ~IS_RELEASED
        gone_versions += act(connection, versions, or_(*named) & is_free)
    return PrunedRows(
        assignments=gone_assignments,
        devices=gone_devices,
        heads=act(connection, personal_models, personal_models.c.updated_at < expired.devices_seen_before),
        versions=gone_versions,
    )
