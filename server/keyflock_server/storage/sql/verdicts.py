"""Counts of verdicts in SQL: one statement a count, which adds to the stored one."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.upserts import insert_or_update
from keyflock_server.storage.tables import round_verdicts, rounds


class SqlVerdictRepository:
    """Implements ``VerdictRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add to the counts of verdicts; other processes may add at the same time."""
        async with self._engine.begin() as connection:
            await add_verdicts(connection, counts)

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """Return the counts of verdicts of the task's rounds, or of one of them."""
        async with self._reader.connect() as connection:
            return await verdicts_of(connection, task, round_id)


async def add_verdicts(connection: AsyncConnection, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
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
        await connection.execute(added, row)


async def verdicts_of(
    connection: AsyncConnection, task: TaskName, round_id: RoundId | None = None
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
    for of_round, verdict, count in await connection.execute(query):
        found.setdefault(RoundId(of_round), {})[verdict] = count
    return found
