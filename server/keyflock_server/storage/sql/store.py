"""The record store in SQL: all repositories over one engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.interfaces.api_tokens import ApiTokenRepository
from keyflock_server.storage.interfaces.arrivals import ArrivalRepository
from keyflock_server.storage.interfaces.assignments import AssignmentRepository
from keyflock_server.storage.interfaces.audit import AuditRepository
from keyflock_server.storage.interfaces.cluster import ClusterRepository
from keyflock_server.storage.interfaces.devices import DeviceRepository
from keyflock_server.storage.interfaces.evaluations import EvaluationRepository
from keyflock_server.storage.interfaces.group_writer import GroupWriter
from keyflock_server.storage.interfaces.idempotency import IdempotencyRepository
from keyflock_server.storage.interfaces.leases import LeaseRepository
from keyflock_server.storage.interfaces.listings import ListingRepository
from keyflock_server.storage.interfaces.personal_models import PersonalModelRepository
from keyflock_server.storage.interfaces.populations import PopulationRepository
from keyflock_server.storage.interfaces.releases import ReleaseRepository
from keyflock_server.storage.interfaces.retention import RetentionRepository
from keyflock_server.storage.interfaces.revocations import RevocationRepository
from keyflock_server.storage.interfaces.round_counts import RoundCountRepository
from keyflock_server.storage.interfaces.rounds import RoundRepository
from keyflock_server.storage.interfaces.tasks import TaskRepository
from keyflock_server.storage.interfaces.tombstones import TombstoneRepository
from keyflock_server.storage.sql.api_tokens import SqlApiTokenRepository
from keyflock_server.storage.sql.arrivals import SqlArrivalRepository
from keyflock_server.storage.sql.assignments import SqlAssignmentRepository
from keyflock_server.storage.sql.audit import SqlAuditRepository
from keyflock_server.storage.sql.cluster import SqlClusterRepository
from keyflock_server.storage.sql.devices import SqlDeviceRepository
from keyflock_server.storage.sql.engine import APPLICATION_NAME, engine_for, reader_of, thread_engine_for
from keyflock_server.storage.sql.evaluations import SqlEvaluationRepository
from keyflock_server.storage.sql.group_writer import SqlGroupWriter
from keyflock_server.storage.sql.idempotency import SqlIdempotencyRepository
from keyflock_server.storage.sql.integrity import MAX_CHECK_S, check_sqlite
from keyflock_server.storage.sql.leases import SqlLeaseRepository
from keyflock_server.storage.sql.listings import SqlListingRepository
from keyflock_server.storage.sql.personal_models import SqlPersonalModelRepository
from keyflock_server.storage.sql.populations import SqlPopulationRepository
from keyflock_server.storage.sql.releases import SqlReleaseRepository
from keyflock_server.storage.sql.retention import SqlRetentionRepository
from keyflock_server.storage.sql.revocations import SqlRevocationRepository
from keyflock_server.storage.sql.round_counts import SqlRoundCountRepository
from keyflock_server.storage.sql.rounds import SqlRoundRepository
from keyflock_server.storage.sql.schema import prepare, revision
from keyflock_server.storage.sql.tasks import SqlTaskRepository
from keyflock_server.storage.sql.tombstones import SqlTombstoneRepository
from keyflock_server.storage.sql.transactions import EngineTransactions, ThreadTransactions, Transactions
from keyflock_server.storage.sql.urls import database_url, display_name, sqlite_file
from keyflock_server.storage.tables import round_causes, round_verdicts


class SqlStore:
    """Implements ``RecordStore`` on SQLite and PostgreSQL.

    Args:
        url: For example ``sqlite+aiosqlite:///…/keyflock.sqlite3``, or ``postgresql+asyncpg://…``.
        application_name: The name of the process in PostgreSQL's list of connections.
    Raises:
        StorageError: fault of the operator; the URL is not understood.
    """

    def __init__(self, url: str, application_name: str = APPLICATION_NAME) -> None:
        #: The name of the database for messages, without secrets.
        self.name = display_name(database_url(url))
        self._engine: AsyncEngine = engine_for(url, application_name)
        self._transactions = writer = _transactions(self._engine, thread_engine_for(url))
        reader = reader_of(self._engine)
        self._file = sqlite_file(database_url(url))
        self._is_checked = self._file is None
        self.populations: PopulationRepository = SqlPopulationRepository(reader, writer)
        self.tasks: TaskRepository = SqlTaskRepository(reader, writer)
        self.rounds: RoundRepository = SqlRoundRepository(reader, writer)
        self.assignments: AssignmentRepository = SqlAssignmentRepository(reader)
        self.verdicts: RoundCountRepository = SqlRoundCountRepository(reader, writer, round_verdicts)
        self.causes: RoundCountRepository = SqlRoundCountRepository(reader, writer, round_causes)
        self.evaluations: EvaluationRepository = SqlEvaluationRepository(reader)
        self.releases: ReleaseRepository = SqlReleaseRepository(reader, writer)
        self.devices: DeviceRepository = SqlDeviceRepository(reader, writer)
        self.revocations: RevocationRepository = SqlRevocationRepository(reader, writer)
        self.tombstones: TombstoneRepository = SqlTombstoneRepository(reader, writer)
        self.personal_models: PersonalModelRepository = SqlPersonalModelRepository(reader, writer)
        self.leases: LeaseRepository = SqlLeaseRepository(reader, writer)
        self.listings: ListingRepository = SqlListingRepository(reader)
        self.arrivals: ArrivalRepository = SqlArrivalRepository(reader, writer)
        self.cluster: ClusterRepository = SqlClusterRepository(reader, writer)
        self.retention: RetentionRepository = SqlRetentionRepository(reader, writer)
        self.audit: AuditRepository = SqlAuditRepository(reader)
        self.api_tokens: ApiTokenRepository = SqlApiTokenRepository(reader, writer)
        self.idempotency: IdempotencyRepository = SqlIdempotencyRepository(reader, writer)
        self.group_writer: GroupWriter = SqlGroupWriter(writer)
        #: Called with the name of a database of which only a part was checked, and the duration in seconds.
        self.on_unchecked: Callable[[str, float], None] = lambda _name, _within_s: None

    async def exists(self) -> bool:
        """Return whether the database has a schema; raises StorageError."""
        if self._file is not None and not _has_content(self._file):
            return False  # connecting would create the file
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
        """Check a SQLite file once; PostgreSQL has checksums and tools of its own."""
        if self._is_checked or self._file is None or not _has_content(self._file):
            return
        if not await asyncio.to_thread(check_sqlite, self._file, self.name):
            self.on_unchecked(self.name, MAX_CHECK_S)
        self._is_checked = True

    async def close(self) -> None:
        """Return all connections."""
        await self._transactions.close()
        await self._engine.dispose()


def _transactions(engine: AsyncEngine, thread_engine: Engine | None) -> Transactions:
    """Return what runs all transactions that write."""
    return EngineTransactions(engine) if thread_engine is None else ThreadTransactions(thread_engine)


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
