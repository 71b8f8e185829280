"""What all processes over one database agree on."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.door import Superseded
from keyflock_server.storage.tables import cluster


class SqlCluster:
    """``door.ClusterTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, name: str) -> str | None:
        """The value of that name."""
        query = select(cluster.c.value).where(cluster.c.name == name)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def claim(self, name: str, value: str) -> str:
        """The value of that name: this one, if there was none."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(cluster).values(name=name, value=value))
        except IntegrityError:
            query = select(cluster.c.value).where(cluster.c.name == name)
            async with self._engine.connect() as connection:
                return str((await connection.execute(query)).scalar_one())
        return value

    async def replace(self, name: str, before: str, value: str) -> None:
        """Another value."""
        row = (cluster.c.name == name) & (cluster.c.value == before)
        async with self._engine.begin() as connection:
            if (await connection.execute(update(cluster).where(row).values(value=value))).rowcount != 1:
                raise Superseded

    async def forget(self, names: Sequence[str]) -> None:
        """No value of these names any more."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(cluster).where(cluster.c.name.in_(names)))
