"""Counts of verdicts in SQL: one statement a count, which adds to the stored one."""

from collections.abc import Mapping

from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.sql.upserts import insert_or_update
from keyflock_server.storage.tables import round_verdicts, rounds


class SqlVerdictRepository:
    """Implements ``VerdictRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add to the counts of verdicts; other processes may add at the same time."""
        await self._transactions.run(add_verdicts, counts)

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """Return the counts of verdicts of the task's rounds, or of one of them."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(verdicts_of, task, round_id)


def add_verdicts(connection: Connection, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
    """Add counts within the caller's transaction, in one fixed order, so that replicas never deadlock."""
    rows = [
        {"round_id": round_id, "verdict": str(verdict), "count": count}
        for round_id, more in sorted(counts.items())
        for verdict, count in sorted(more.items())
    ]
    if not rows:
        return
    new = insert_or_update(connection, round_verdicts)
    added = new.on_conflict_do_update(
        index_elements=["round_id", "verdict"],
        set_={"count": round_verdicts.c["count"] + new.excluded.count},
    )
    for row in rows:
        connection.execute(added, row)


def verdicts_of(
    connection: Connection, task: TaskName, round_id: RoundId | None = None
) -> dict[RoundId, dict[str, int]]:
    """Return all counts of a task's rounds, or of one of them."""
    query = (
        select(round_verdicts)
        .join(rounds, rounds.c.id == round_verdicts.c.round_id)
        .where(rounds.c.task == task)
        .order_by(round_verdicts.c.round_id, round_verdicts.c.verdict)
    )
    if round_id is not None:
        query = query.where(round_verdicts.c.round_id == round_id)
    found: dict[RoundId, dict[str, int]] = {}
    for of_round, verdict, count in connection.execute(query):
        found.setdefault(RoundId(of_round), {})[verdict] = count
    return found
