"""What the database says at one moment, read beside the servers: where rounds stand, and who leads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keyflock_server.coordinator.leadership import LEADER
from keyflock_server.rounds.round import FINAL_PHASES, Phase
from keyflock_server.storage.sql.engine import engine_for, reader_of
from keyflock_server.storage.tables import leases, partials, populations, rounds


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One moment."""

    #: Phase of each task's round that is not over; a task between two rounds is not in it.
    phases: dict[str, Phase]
    #: Model versions so far, of all populations.
    versions: int
    #: Id of the replica that holds the leader's lease, expired or not; empty without one.
    leader: str
    #: Keys of the partial aggregates that rows point to.
    partials: frozenset[str]


class Peephole:
    """Reads a store's rows and changes nothing.

    Args:
        engine: To the database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    def into_sqlite(cls, database: Path) -> Self:
        """Of a file; opened so that it is not even tidied up, which is the next server's business."""
        return cls(create_async_engine(f"sqlite+aiosqlite:///file:{database}?mode=ro&uri=true"))

    @classmethod
    def into(cls, url: str) -> Self:
        """Of a database server."""
        return cls(reader_of(engine_for(url, "keyflock-kills")))

    async def look(self) -> Glimpse:
        """Now."""
        running = select(rounds.c.task, rounds.c.phase).where(rounds.c.phase.not_in(FINAL_PHASES))
        made = select(func.coalesce(func.sum(populations.c.latest_version), 0))
        leading = select(leases.c.holder).where(leases.c.name == LEADER)
        async with self._engine.connect() as connection:
            phases = {task: Phase(phase) for task, phase in await connection.execute(running)}
            versions = (await connection.execute(made)).scalar_one()
            leader = (await connection.execute(leading)).scalar_one_or_none()
            keys = (await connection.execute(select(partials.c.key))).scalars()
            return Glimpse(phases, int(versions), leader or "", frozenset(keys))

    async def close(self) -> None:
        """Return the connections."""
        await self._engine.dispose()
