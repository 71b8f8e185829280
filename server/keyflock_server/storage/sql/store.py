"""The SQL store, all tables together."""

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
from keyflock_server.storage.sql.leases import SqlLeases
from keyflock_server.storage.sql.populations import SqlPopulations
from keyflock_server.storage.sql.retention import SqlRetention
from keyflock_server.storage.sql.revocations import SqlRevocations
from keyflock_server.storage.sql.rounds import SqlRounds
from keyflock_server.storage.sql.schema import prepare
from keyflock_server.storage.sql.tasks import SqlTasks
from keyflock_server.storage.sql.tombstones import SqlTombstones
from keyflock_server.storage.sql.urls import database_url, shown


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

    async def open(self) -> None:
        """Create or check the schema; raises StorageError."""
        await prepare(self._engine)

    async def close(self) -> None:
        """Return all connections."""
        await self._engine.dispose()
