"""The dictionaries that the in-memory repositories share."""

from dataclasses import replace
from datetime import datetime

from tests.memory_store.audit import MemoryLog

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.availability import ArrivalCount
from keyflock_server.rounds.round import IllegalRoundEvent, RoundEvent, advance
from keyflock_server.storage.audit_documents import release_document
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.operator_records import (
    ApiTokenRecord,
    EvaluationRecord,
    IdempotencyRecord,
    ReleaseRecord,
)
from keyflock_server.storage.records import (
    AssignmentRecord,
    DeviceRecord,
    LeaseRecord,
    PartialRecord,
    PersonalModelRecord,
    PopulationRecord,
    RevocationRecord,
    RoundRecord,
    TaskRecord,
    TombstoneRecord,
)


class MemoryRows:
    """All rows by their keys."""

    def __init__(self) -> None:
        self.populations: dict[PopulationName, PopulationRecord] = {}
        self.population_names: dict[PopulationName, PopulationName] = {}
        #: Populations that were deleted, whose other rows go by and by, with the keys of their averages.
        self.deleted_populations: dict[PopulationName, str | None] = {}
        self.versions: dict[tuple[PopulationName, ModelVersion], VersionRecord] = {}
        #: Ids of the tasks of deleted populations.
        self.deleted_tasks: set[TaskName] = set()
        self.tasks: dict[TaskName, TaskRecord] = {}
        self.rounds: dict[RoundId, RoundRecord] = {}
        self.devices: dict[DeviceId, DeviceRecord] = {}
        self.assignments: dict[tuple[RoundId, DeviceId], AssignmentRecord] = {}
        self.personal_models: dict[tuple[PopulationName, str], PersonalModelRecord] = {}
        self.partials: dict[tuple[RoundId, str], PartialRecord] = {}
        self.leases: dict[str, LeaseRecord] = {}
        self.arrivals: dict[tuple[TaskName, int], ArrivalCount] = {}
        self.verdicts: dict[RoundId, dict[str, int]] = {}
        self.revocations: dict[str, RevocationRecord] = {}
        self.tombstones: dict[str, TombstoneRecord] = {}
        self.causes: dict[RoundId, dict[str, int]] = {}
        self.evaluations: dict[RoundId, EvaluationRecord] = {}
        #: Each population's history, oldest first.
        self.releases: dict[PopulationName, list[ReleaseRecord]] = {}
        self.api_tokens: dict[str, ApiTokenRecord] = {}
        self.idempotency_keys: dict[tuple[str, str], IdempotencyRecord] = {}
        self.log = MemoryLog()

    def require_population(self, name: PopulationName) -> None:
        if name not in self.populations:
            raise PopulationGone(name)

    def newest_release(self, name: PopulationName) -> ReleaseRecord | None:
        return self.releases[name][-1] if name in self.populations and self.releases.get(name) else None

    def append_release(self, record: ReleaseRecord, audit: AuditContext) -> None:
        name = record.population
        if record.sequence != len(self.releases.get(name, [])):
            raise Superseded(name)

        def document() -> Document | None:
            newest = self.newest_release(name)
            return None if newest is None else release_document(newest)

        with self.log.audited(audit, SubjectKind.RELEASE, name, document):
            self.releases.setdefault(name, []).append(record)

    def advanced(self, round_id: RoundId, event: RoundEvent, at: datetime) -> RoundRecord:
        record = self.rounds.get(round_id)
        if record is None:
            raise Superseded(round_id)
        try:
            return replace(record, round=advance(record.round, event, at))
        except IllegalRoundEvent as error:
            raise Superseded(f"{round_id}: {error}") from None
