"""What is counted by round, in SQL: one statement a count, which adds to the stored one."""

from collections.abc import Mapping

from sqlalchemy import Connection, Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.sql.upserts import insert_or_update
from keyflock_server.storage.tables import rounds


class SqlRoundCountRepository:
    """Implements ``RoundCountRepository`` in SQL.

    Args:
        table: The table, of the columns ``round_id``, a name and ``count``.
    """

    def __init__(self, reader: AsyncEngine, transactions: Transactions, table: Table) -> None:
        self._transactions = transactions
        self._reader = reader
        self._table = table
        (self._name,) = (one for one in table.primary_key.columns if one.name != "round_id")

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add to the counts; other processes may add at the same time."""
        await self._transactions.run(self._add, counts)

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """Return the counts of the task's rounds, or of one of them."""
        table = self._table
        query = (
            select(table)
            .join(rounds, rounds.c.id == table.c.round_id)
            .where(rounds.c.task == task)
            .order_by(table.c.round_id, self._name)
        )
        if round_id is not None:
            query = query.where(table.c.round_id == round_id)
        found: dict[RoundId, dict[str, int]] = {}
        async with self._reader.connect() as connection:
            for of_round, name, count in await connection.execute(query):
                found.setdefault(RoundId(of_round), {})[name] = count
        return found

    def _add(self, connection: Connection, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add counts in one fixed order, so that replicas never deadlock."""
        rows = [
            {"round_id": round_id, self._name.name: str(name), "count": count}
            for round_id, more in sorted(counts.items())
            for name, count in sorted(more.items())
        ]
        if not rows:
            return
        new = insert_or_update(connection, self._table)
        added = new.on_conflict_do_update(
            index_elements=["round_id", self._name.name],
            set_={"count": self._table.c["count"] + new.excluded.count},
        )
        for row in rows:
            connection.execute(added, row)
