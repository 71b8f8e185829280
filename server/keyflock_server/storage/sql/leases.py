"""Leases in SQL."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.records import LeaseRecord
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import leases


class SqlLeaseRepository:
    """Implements ``LeaseRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def acquire(self, name: str, holder: str, ttl_s: float, now: datetime) -> LeaseRecord:
        """Take the lease, or renew it, if no other process holds it."""
        expires_at = now + timedelta(seconds=ttl_s)
        query = select(leases).where(leases.c.name == name)
        renew = (
            update(leases)
            .where(leases.c.name == name, leases.c.holder == holder)
            .values(expires_at=expires_at)
        )
        take = (
            update(leases)
            .where(
                leases.c.name == name,
                or_(
                    leases.c.holder == "",
                    leases.c.expires_at <= now,
                    leases.c.expires_at > now + timedelta(seconds=2 * ttl_s),
                ),
            )
            .values(holder=holder, epoch=leases.c.epoch + 1, expires_at=expires_at)
        )

        def transaction(connection: Connection) -> LeaseRecord:
            if connection.execute(renew).rowcount == 0:
                connection.execute(take)
            row = connection.execute(query).one_or_none()
            if row is not None:
                return _lease(row)
            first = {"name": name, "holder": holder, "epoch": 1, "expires_at": expires_at}
            connection.execute(insert(leases).values(first))
            return LeaseRecord(name=name, holder=holder, epoch=1, expires_at=expires_at)

        try:
            return await self._transactions.run(transaction)
        except IntegrityError:
            # Another process has inserted the row at the same instant.
            async with self._reader.connect() as connection:
                return _lease((await connection.execute(query)).one())

    async def release(self, name: str, holder: str) -> None:
        """Release the lease at once."""
        mine = (leases.c.name == name, leases.c.holder == holder)
        # The row stays because it holds the epoch.
        await self._transactions.run(rows_changed, update(leases).where(*mine).values(holder=""))

    async def held(self, prefix: str, now: datetime) -> list[LeaseRecord]:
        """Return the unexpired leases whose names have this prefix, ordered by name."""
        query = (
            select(leases)
            .where(
                leases.c.name.startswith(prefix, autoescape=True),
                leases.c.holder != "",
                leases.c.expires_at > now,
            )
            .order_by(leases.c.name)
        )
        async with self._reader.connect() as connection:
            return [_lease(row) for row in await connection.execute(query)]


def _lease(row: Row[Any]) -> LeaseRecord:
    return LeaseRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
