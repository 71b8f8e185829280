"""What the database says at one moment: the phases of the rounds, and which replica leads."""

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
class DatabaseSnapshot:
    """The rows that a chaos run looks at, read at one moment."""

    #: The phase of each task's open round; a task between two rounds is left out.
    phases: dict[str, Phase]
    #: Number of model versions of all populations.
    versions: int
    #: Id of the replica that holds the leader's lease, expired or not; empty where none holds it.
    leader: str
    #: Keys of the partial aggregates that rows point to.
    partials: frozenset[str]


class SnapshotReader:
    """Read a store's rows and change nothing.

    Args:
        engine: Connects to the database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    def of_sqlite(cls, database: Path) -> Self:
        """Return a reader of a SQLite file; it opens read-only, so recovery is left to the next server."""
        return cls(create_async_engine(f"sqlite+aiosqlite:///file:{database}?mode=ro&uri=true"))

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Return a reader of the database at a URL."""
        return cls(reader_of(engine_for(url, "keyflock-kills")))

    async def take(self) -> DatabaseSnapshot:
        """Return what the database says now."""
        running = select(rounds.c.task, rounds.c.phase).where(rounds.c.phase.not_in(FINAL_PHASES))
        version_count = select(func.coalesce(func.sum(populations.c.latest_version), 0))
        leader_lease = select(leases.c.holder).where(leases.c.name == LEADER)
        async with self._engine.connect() as connection:
            phases = {task: Phase(phase) for task, phase in await connection.execute(running)}
            versions = (await connection.execute(version_count)).scalar_one()
            leader = (await connection.execute(leader_lease)).scalar_one_or_none()
            keys = (await connection.execute(select(partials.c.key))).scalars()
            return DatabaseSnapshot(phases, int(versions), leader or "", frozenset(keys))

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()
