"""The named values that all processes over one database agree on, in SQL."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import cluster


class SqlClusterRepository:
    """Implements ``ClusterRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def get(self, name: str) -> str | None:
        """Return the value of that name, or None."""
        query = select(cluster.c.value).where(cluster.c.name == name)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def claim(self, name: str, value: str) -> str:
        """Store this value unless the name has one, and return the stored value."""
        try:
            await self._transactions.run(rows_changed, insert(cluster).values(name=name, value=value))
        except IntegrityError:
            query = select(cluster.c.value).where(cluster.c.name == name)
            async with self._reader.connect() as connection:
                return str((await connection.execute(query)).scalar_one())
        return value

    async def replace(self, name: str, before: str, value: str) -> None:
        """Replace a value; raises Superseded if the stored one is not ``before``."""
        row = (cluster.c.name == name) & (cluster.c.value == before)
        change = update(cluster).where(row).values(value=value)
        if await self._transactions.run(rows_changed, change) != 1:
            raise Superseded

    async def forget(self, names: Sequence[str]) -> None:
        """Delete the values of these names."""
        await self._transactions.run(rows_changed, delete(cluster).where(cluster.c.name.in_(names)))
