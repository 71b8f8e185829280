"""Counts of check-ins by the hour, in SQL."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.availability import ArrivalCount
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.tables import arrivals


class SqlArrivalRepository:
    """Implements ``ArrivalRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """Add to the counts."""
        async with self._engine.begin() as connection:
            # Always in one order, so that two processes never deadlock.
            for count in sorted(counts, key=lambda one: (one.task, one.hour)):
                there = (arrivals.c.task == count.task) & (arrivals.c.hour == count.hour)
                more = (
                    update(arrivals)
                    .where(there)
                    .values(
                        check_ins=arrivals.c.check_ins + count.check_ins,
                        eligible=arrivals.c.eligible + count.eligible,
                    )
                )
                if (await connection.execute(more)).rowcount == 0:
                    try:
                        async with connection.begin_nested():
                            await connection.execute(insert(arrivals).values(asdict(count)))
                    except IntegrityError:  # another process was faster
                        await connection.execute(more)

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """Return the task's counts from this hour on, oldest first."""
        query = select(arrivals).where(arrivals.c.task == task, arrivals.c.hour >= hour)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query.order_by(arrivals.c.hour))).all()
        return [ArrivalCount(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(arrivals).where(arrivals.c.hour < hour))
