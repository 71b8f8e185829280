"""Counts of check-ins by the hour, in SQL."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.availability import ArrivalCount
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import arrivals


class SqlArrivalRepository:
    """Implements ``ArrivalRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """Add to the counts."""

        def transaction(connection: Connection) -> None:
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
                if connection.execute(more).rowcount == 0:
                    try:
                        with connection.begin_nested():
                            connection.execute(insert(arrivals).values(asdict(count)))
                    except IntegrityError:  # another process was faster
                        connection.execute(more)

        await self._transactions.run(transaction)

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """Return the task's counts from this hour on, oldest first."""
        query = select(arrivals).where(arrivals.c.task == task, arrivals.c.hour >= hour)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query.order_by(arrivals.c.hour))).all()
        return [ArrivalCount(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        await self._transactions.run(rows_changed, delete(arrivals).where(arrivals.c.hour < hour))
