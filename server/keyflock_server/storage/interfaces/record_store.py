"""The interface to the record store: all repositories of one database."""

from typing import Protocol

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


class RecordStore(Protocol):
    """All repositories of one database."""

    populations: PopulationRepository
    tasks: TaskRepository
    rounds: RoundRepository
    assignments: AssignmentRepository
    verdicts: RoundCountRepository
    #: Causes of failure that phones gave.
    causes: RoundCountRepository
    evaluations: EvaluationRepository
    releases: ReleaseRepository
    devices: DeviceRepository
    revocations: RevocationRepository
    tombstones: TombstoneRepository
    personal_models: PersonalModelRepository
    leases: LeaseRepository
    listings: ListingRepository
    arrivals: ArrivalRepository
    cluster: ClusterRepository
    retention: RetentionRepository
    audit: AuditRepository
    api_tokens: ApiTokenRepository
    idempotency: IdempotencyRepository
    group_writer: GroupWriter

    @property
    def name(self) -> str:
        """The name of the database for messages, without secrets."""
        ...

    async def exists(self) -> bool:
        """Return whether the database exists; only ``open`` creates it."""
        ...

    async def open(self) -> None:
        """Open the store for use; raises StorageError."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
