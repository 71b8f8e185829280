"""The named values that all processes over one database agree on, in SQL."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.tables import cluster


class SqlClusterRepository:
    """Implements ``ClusterRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, name: str) -> str | None:
        """Return the value of that name, or None."""
        query = select(cluster.c.value).where(cluster.c.name == name)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def claim(self, name: str, value: str) -> str:
        """Store this value unless the name has one, and return the stored value."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(cluster).values(name=name, value=value))
        except IntegrityError:
            query = select(cluster.c.value).where(cluster.c.name == name)
            async with self._engine.connect() as connection:
                return str((await connection.execute(query)).scalar_one())
        return value

    async def replace(self, name: str, before: str, value: str) -> None:
        """Replace a value; raises Superseded if the stored one is not ``before``."""
        row = (cluster.c.name == name) & (cluster.c.value == before)
        async with self._engine.begin() as connection:
            if (await connection.execute(update(cluster).where(row).values(value=value))).rowcount != 1:
                raise Superseded

    async def forget(self, names: Sequence[str]) -> None:
        """Delete the values of these names."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(cluster).where(cluster.c.name.in_(names)))
