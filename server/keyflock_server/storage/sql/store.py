"""The SQL store, all tables together."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.door import (
    ArrivalTable,
    ClusterTable,
    DeviceTable,
    HeadTable,
    LeaseTable,
    PopulationTable,
    RetentionTable,
    RevocationTable,
    RoundTable,
    TaskTable,
    TombstoneTable,
)
from keyflock_server.storage.sql.arrivals import SqlArrivals
from keyflock_server.storage.sql.cluster import SqlCluster
from keyflock_server.storage.sql.devices import SqlDevices
from keyflock_server.storage.sql.engine import APPLICATION_NAME, engine_for
from keyflock_server.storage.sql.heads import SqlHeads
from keyflock_server.storage.sql.integrity import MAX_CHECK_S, check_sqlite
from keyflock_server.storage.sql.leases import SqlLeases
from keyflock_server.storage.sql.populations import SqlPopulations
from keyflock_server.storage.sql.retention import SqlRetention
from keyflock_server.storage.sql.revocations import SqlRevocations
from keyflock_server.storage.sql.rounds import SqlRounds
from keyflock_server.storage.sql.schema import prepare, revision
from keyflock_server.storage.sql.tasks import SqlTasks
from keyflock_server.storage.sql.tombstones import SqlTombstones
from keyflock_server.storage.sql.urls import database_url, shown, sqlite_file


class SqlStore:
    """``door.Store`` on any database that SQLAlchemy reaches.

    Args:
        url: For example ``sqlite+aiosqlite:///…/keyflock.sqlite3``, or ``postgresql+asyncpg://…``.
        application_name: What the process is called in PostgreSQL's list of connections.
    Raises:
        StorageError: fault of the operator; the URL is not understood.
    """

    def __init__(self, url: str, application_name: str = APPLICATION_NAME) -> None:
        #: Which database it is, without secrets.
        self.name = shown(database_url(url))
        self._engine: AsyncEngine = engine_for(url, application_name)
        self._file = sqlite_file(database_url(url))
        self._is_checked = self._file is None
        self.populations: PopulationTable = SqlPopulations(self._engine)
        self.tasks: TaskTable = SqlTasks(self._engine)
        self.rounds: RoundTable = SqlRounds(self._engine)
        self.devices: DeviceTable = SqlDevices(self._engine)
        self.revocations: RevocationTable = SqlRevocations(self._engine)
        self.tombstones: TombstoneTable = SqlTombstones(self._engine)
        self.heads: HeadTable = SqlHeads(self._engine)
        self.leases: LeaseTable = SqlLeases(self._engine)
        self.arrivals: ArrivalTable = SqlArrivals(self._engine)
        self.cluster: ClusterTable = SqlCluster(self._engine)
        self.retention: RetentionTable = SqlRetention(self._engine)
        #: Told of a database that was opened after only a part of it was checked, and how long that took, s.
        self.on_unchecked: Callable[[str, float], None] = lambda _name, _within_s: None

    async def exists(self) -> bool:
        """Whether the database has a schema; raises StorageError."""
        if self._file is not None and not _has_content(self._file):
            return False  # to connect would make the file
        await self._check()
        return await revision(self._engine) is not None

    async def open(self) -> None:
        """Create or check the schema.

        Raises:
            StorageDamaged: fault of the machine; a SQLite file is damaged. It is left as it is.
            StorageError: the database cannot be opened, or is of another release.
        """
        await self._check()
        await prepare(self._engine)

    async def _check(self) -> None:
        """Once, and of SQLite only: PostgreSQL has checksums and tools of its own."""
        if self._is_checked or self._file is None or not _has_content(self._file):
            return
        if not await asyncio.to_thread(check_sqlite, self._file, self.name):
            self.on_unchecked(self.name, MAX_CHECK_S)
        self._is_checked = True

    async def close(self) -> None:
        """Return all connections."""
        await self._engine.dispose()


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
