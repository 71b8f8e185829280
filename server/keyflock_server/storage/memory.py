"""An honest fake: the same promises as the real store, in dictionaries. For tests and short simulations."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
    UserDigest,
)
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.availability import ActiveDevices, ArrivalCount
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.rounds.round import (
    Assigned,
    Carried,
    Counted,
    Event,
    Expired,
    Failed,
    IllegalEvent,
    Phase,
    Published,
    Round,
    Summarised,
    advance,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.door import (
    AlreadyExists,
    ArrivalTable,
    BlobMissing,
    Changes,
    Clock,
    ClusterTable,
    DeviceTable,
    HeadTable,
    LeaseTable,
    NotOpen,
    PartialMoved,
    PopulationTable,
    Remains,
    RetentionTable,
    RevocationTable,
    RolledBack,
    RoundTable,
    Superseded,
    TaskTable,
    TombstoneTable,
    UnreadableRow,
)
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    HeadRecord,
    LeaseRecord,
    PartialRecord,
    PastAssignment,
    PopulationRecord,
    RevocationRecord,
    RoundRecord,
    StoredBlob,
    TaskRecord,
    TombstoneRecord,
    history_from,
    is_silence,
)
from keyflock_server.storage.retention import Doomed, Pruned, UnprovenDevices


class _Rows:
    def __init__(self) -> None:
        self.populations: dict[PopulationName, PopulationRecord] = {}
        self.versions: dict[tuple[PopulationName, ModelVersion], VersionRecord] = {}
        self.tasks: dict[TaskName, TaskRecord] = {}
        self.rounds: dict[RoundId, RoundRecord] = {}
        self.devices: dict[DeviceId, DeviceRecord] = {}
        self.assignments: dict[tuple[RoundId, DeviceId], AssignmentRecord] = {}
        self.heads: dict[tuple[PopulationName, str], HeadRecord] = {}
        self.partials: dict[tuple[RoundId, str], PartialRecord] = {}
        self.leases: dict[str, LeaseRecord] = {}
        self.arrivals: dict[tuple[TaskName, int], ArrivalCount] = {}
        self.verdicts: dict[RoundId, dict[str, int]] = {}
        self.revocations: dict[str, RevocationRecord] = {}
        self.tombstones: dict[str, TombstoneRecord] = {}


class MemoryStore:
    """``door.Store`` without a disk."""

    def __init__(self) -> None:
        rows = _Rows()
        self.populations: PopulationTable = _Populations(rows)
        self.tasks: TaskTable = _Tasks(rows)
        self.rounds: RoundTable = _Rounds(rows)
        self.devices: DeviceTable = _Devices(rows)
        self.revocations: RevocationTable = _Revocations(rows)
        self.tombstones: TombstoneTable = _Tombstones(rows)
        self.heads: HeadTable = _Heads(rows)
        self.leases: LeaseTable = _Leases(rows)
        self.arrivals: ArrivalTable = _Arrivals(rows)
        self.cluster: ClusterTable = _Cluster()
        #: Which database it is.
        self.name = "memory"
        self._is_made = False
        self.retention: RetentionTable = _Retention(rows)

    async def exists(self) -> bool:
        """Whether it was opened before."""
        return self._is_made

    async def open(self) -> None:
        """Take note of it."""
        self._is_made = True

    async def close(self) -> None:
        """Nothing to do."""


class MemoryBlobs:
    """``door.Blobs`` without a disk.

    Args:
        clock: Tells when a blob was written; without one, all are as old as can be.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._blobs: dict[str, bytes] = {}
        self._written_at: dict[str, datetime] = {}
        self._clock = clock
        #: Where they are.
        self.name = "memory"

    async def put(self, key: str, data: bytes) -> None:
        """Keep."""
        self._blobs[key] = bytes(data)
        self._written_at[key] = self._clock() if self._clock else datetime.min.replace(tzinfo=UTC)

    async def create(self, key: str, data: bytes) -> bool:
        """Keep, unless there is one."""
        if key in self._blobs:
            return False
        await self.put(key, data)
        return True

    async def get(self, key: str) -> bytes:
        """Give back."""
        if key not in self._blobs:
            raise BlobMissing(f"Blob {key} cannot be read: there is none.")
        return self._blobs[key]

    async def delete(self, key: str) -> None:
        """Drop."""
        self._blobs.pop(key, None)

    async def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List."""
        for key, data in list(self._blobs.items()):
            yield StoredBlob(key=key, modified_at=self._written_at[key], size_bytes=len(data))


class _Populations:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        if population.name in self._rows.populations:
            raise AlreadyExists(population.name)
        self._rows.populations[population.name] = population
        self._rows.versions[population.name, version.version] = version

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        return self._rows.populations.get(name)

    async def all(self) -> list[PopulationRecord]:
        return [self._rows.populations[name] for name in sorted(self._rows.populations)]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        return self._rows.versions.get((name, version))

    async def versions(self) -> list[VersionRecord]:
        return [self._rows.versions[key] for key in sorted(self._rows.versions)]

    async def withdrawn(self, name: PopulationName) -> frozenset[ModelVersion]:
        mine = (one for one in self._rows.versions.values() if one.population == name)
        return frozenset(one.version for one in mine if one.withdrawn_at is not None)

    async def roll_back(self, version: VersionRecord, latest: ModelVersion, reason: str) -> RolledBack:
        name, at, to = version.population, version.created_at, version.parent
        population = self._rows.populations.get(name)
        restored = None if to is None else self._rows.versions.get((name, to))
        is_gone = restored is None or restored.withdrawn_at is not None
        if population is None or population.latest_version != latest or to is None or is_gone:
            raise Superseded(name)
        discarded = []
        for round_id, record in sorted(self._rows.rounds.items()):
            current = record.round
            if current.population == name and not (current.is_over or current.is_committed):
                event = discarded_by_rollback(current, to, reason)
                discarded.append(replace(record, round=advance(current, event, at)))
                self._rows.rounds[round_id] = discarded[-1]
        for key, one in self._rows.versions.items():
            if one.population == name and to < one.version and one.withdrawn_at is None:
                self._rows.versions[key] = replace(one, withdrawn_at=at)
        self._rows.versions[name, version.version] = version
        chosen = population.anchor_loss_chosen if version.anchor_loss is None else version.anchor_loss
        self._rows.populations[name] = replace(
            population, latest_version=version.version, average_key=None, anchor_loss_chosen=chosen
        )
        keys = [] if population.average_key is None else [population.average_key]
        for task_name, task in self._rows.tasks.items():
            if task.spec.population == name and task.optimizer_state_key is not None:
                keys.append(task.optimizer_state_key)
                self._rows.tasks[task_name] = replace(task, optimizer_state_key=None)
        return RolledBack(tuple(discarded), tuple(keys))


class _Tasks:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, task: TaskRecord) -> None:
        if task.name in self._rows.tasks:
            raise AlreadyExists(task.name)
        self._rows.tasks[task.name] = task

    async def get(self, name: TaskName) -> TaskRecord | None:
        return self._rows.tasks.get(name)

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:  # noqa: ARG002 - no row here is damaged
        return sorted(self._rows.tasks.values(), key=lambda task: (task.created_at, task.name))

    async def set_status(self, name: TaskName, status: TaskStatus) -> None:
        self._rows.tasks[name] = replace(self._rows.tasks[name], status=status)

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        known = self._rows.tasks[name].norm_scales_json
        if known is None:
            known = norm_scales_json
            self._rows.tasks[name] = replace(self._rows.tasks[name], norm_scales_json=known)
        return known


class _Rounds:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, record: RoundRecord) -> None:
        taken = {(other.round.task, other.round.sequence) for other in self._rows.rounds.values()}
        is_taken = record.round.id in self._rows.rounds or (record.round.task, record.round.sequence) in taken
        is_early = any(one.round.task == record.round.task for one in await self.unfinished())
        if is_taken or is_early:
            raise AlreadyExists(record.round.id)
        self._rows.rounds[record.round.id] = record

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        return self._rows.rounds.get(round_id)

    async def of_task(self, task: TaskName, last: int | None = None) -> list[RoundRecord]:
        mine = [record for record in self._rows.rounds.values() if record.round.task == task]
        mine.sort(key=lambda record: record.round.sequence)
        return mine if last is None else mine[-last:]

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        return dict(Counter(record.round.phase for record in await self.of_task(task)))

    async def tally(self, task: TaskName) -> tuple[int, int]:
        mine = [record.round for record in await self.of_task(task)]
        return max((one.sequence for one in mine), default=0), sum(one.phase is Phase.CLOSED for one in mine)

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:  # noqa: ARG002 - as above
        mine = [record for record in self._rows.rounds.values() if not record.round.is_over]
        return sorted(mine, key=lambda record: record.round.opened_at)

    async def advance(self, round_id: RoundId, event: Event, at: datetime, changes: Changes) -> RoundRecord:
        after = replace(self._advanced(round_id, event, at), **changes)
        self._rows.rounds[round_id] = after
        return after

    async def assign(self, assignment: AssignmentRecord) -> RoundRecord:
        key = (assignment.round_id, assignment.device)
        after = self._advanced(assignment.round_id, Assigned(), assignment.assigned_at)
        if key in self._rows.assignments:
            raise AlreadyExists(assignment.id)
        if assignment.device not in self._rows.devices:
            raise Superseded(assignment.id)
        self._rows.assignments[key] = assignment
        self._rows.rounds[assignment.round_id] = after
        return after

    async def fail(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        key = (assignment.round_id, assignment.device)
        row, record = self._rows.assignments.get(key), self._rows.rounds[assignment.round_id]
        if row is None or row.state is not AssignmentState.ASSIGNED:
            raise Superseded(assignment.id)
        after = record
        if record.round.phase is Phase.COLLECTING:
            after = self._advanced(assignment.round_id, Failed(), at)
        self._rows.assignments[key] = replace(row, state=AssignmentState.FAILED, session_shape=session_shape)
        self._rows.rounds[assignment.round_id] = after
        return after

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        spared: Collection[AssignmentId] = (),
        heard: Collection[AssignmentId] = (),
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        current = self._rows.rounds[round_id].round
        its_task = {one.round.id for one in self._rows.rounds.values() if one.round.task == current.task}
        due = [
            row
            for row in self._rows.assignments.values()
            if (row.round_id == round_id or (current.is_async and row.round_id in its_task))
            and row.state is AssignmentState.ASSIGNED
            and row.runs_out_at(current) <= before
            and row.id not in spared
        ]
        if not due:
            return None
        after, own = self._rows.rounds[round_id], sum(row.round_id == round_id for row in due)
        if own and current.phase is Phase.COLLECTING:
            after = self._advanced(round_id, Expired(own), before)
        for row in due:
            key = row.round_id, row.device
            self._rows.assignments[key] = replace(row, state=AssignmentState.EXPIRED)
            device = self._rows.devices.get(row.device)
            if device is not None and row.id not in heard and is_silence(row, current):
                self._rows.devices[device.id] = replace(device, silences=device.silences + 1)
        self._rows.rounds[round_id] = after
        return after, tuple(sorted(row.id for row in due))

    async def commit_flush(
        self,
        partial: PartialRecord,
        reports: Sequence[CountedReport],
        at: datetime,
        replaces: str | None = None,
    ) -> RoundRecord:
        counted = Counted(len(reports), sum(report.weight for report in reports))
        keys = [(report.round_id, report.device) for report in reports]
        rows = [self._rows.assignments[key] for key in keys if key in self._rows.assignments]
        if not_open := NotOpen.among([report.id for report in reports], rows, self._rows.devices):
            raise not_open
        after = self._advanced(partial.round_id, counted, at)
        before = self._rows.partials.get((partial.round_id, partial.replica))
        if (before.key if before else None) != replaces:
            raise PartialMoved(partial.round_id)
        for key, report in zip(keys, reports, strict=True):
            self._rows.assignments[key] = replace(
                self._rows.assignments[key],
                state=AssignmentState.COUNTED,
                report_digest=report.report_digest,
                weight=report.weight,
                session_shape=report.session_shape,
                counted_in=partial.round_id,
                counted_at=report.received_at or at,
            )
            device = self._rows.devices[report.device]
            self._rows.devices[report.device] = replace(device, last_contributed_at=at, silences=0)
        self._rows.partials[partial.round_id, partial.replica] = partial
        self._rows.rounds[partial.round_id] = after
        return after

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        mine = [row for row in self._rows.partials.values() if row.round_id == round_id]
        return sorted(mine, key=lambda row: row.replica)

    async def carry(self, before: RoundId, event: Carried, after: RoundRecord) -> RoundRecord:
        ended = self._advanced(before, event, after.round.opened_at)
        newest = self._rows.populations[after.round.population].latest_version
        if newest != ended.round.base_version:
            raise Superseded(before)
        begun = replace(after.round, carried=ended.round.reports, weight=ended.round.weight)
        current = self._rows.rounds[before]
        self._rows.rounds[before] = ended
        try:
            await self.add(replace(after, round=begun))
        except AlreadyExists:
            self._rows.rounds[before] = current
            raise Superseded(before) from None
        for row in await self.partials(before):
            del self._rows.partials[before, row.replica]
            origin = row.replica if "/" in row.replica else f"{before}/{row.replica}"
            moved = replace(row, round_id=begun.id, replica=origin)
            self._rows.partials[begun.id, moved.replica] = moved
        return replace(after, round=begun)

    async def publish(
        self,
        round_id: RoundId,
        version: VersionRecord,
        optimizer_state_key: str,
        at: datetime,
        norm_scales_json: bytes | None = None,
    ) -> RoundRecord:
        after = self._advanced(round_id, Published(version.version), at)
        name, task = version.population, after.round.task
        if self._rows.populations[name].latest_version != version.parent:
            raise Superseded(round_id)
        self._rows.versions[name, version.version] = version
        newest = replace(
            self._rows.populations[name], latest_version=version.version, average_key=after.average_key
        )
        if after.round.is_accepted and version.anchor_loss is not None:
            newest = replace(newest, anchor_loss_chosen=version.anchor_loss)
        self._rows.populations[name] = newest
        before = self._rows.tasks[task]
        self._rows.tasks[task] = replace(
            before,
            optimizer_state_key=optimizer_state_key,
            norm_scales_json=before.norm_scales_json if norm_scales_json is None else norm_scales_json,
        )
        self._rows.rounds[round_id] = after
        return after

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        ended = self._advanced(round_id, event, at)
        name = ended.round.population
        if after is not None:
            population = self._rows.populations[name]
            if population.personalisation_json != before:
                raise Superseded(round_id)
            self._rows.populations[name] = replace(population, personalisation_json=after)
        self._rows.rounds[round_id] = ended
        return ended

    async def assignments(self, round_id: RoundId) -> list[AssignmentRecord]:
        return [row for row in self._rows.assignments.values() if row.round_id == round_id]

    async def assignment(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        return self._rows.assignments.get((round_id, device))

    async def outstanding(self, task: TaskName, since: datetime, until: datetime) -> int:
        return sum(
            row.assigned_at <= until and not self._is_withdrawn(self._rows.rounds[row.round_id].round)
            for row in self._outstanding(task, since)
        )

    def _is_withdrawn(self, current: Round) -> bool:
        base = self._rows.versions.get((current.population, current.base_version))
        return base is not None and base.withdrawn_at is not None

    async def outstanding_of(
        self, task: TaskName, device: DeviceId, since: datetime
    ) -> AssignmentRecord | None:
        mine = [row for row in self._outstanding(task, since) if row.device == device]
        return max(mine, key=lambda row: row.assigned_at, default=None)

    async def history(self, task: TaskName, rounds: int, assignments: int) -> RoundHistory:
        missed = (Phase.CARRIED, Phase.ABANDONED)
        telling = (Phase.PUBLISHED, Phase.CLOSED, *missed)
        mine = [one.round for one in reversed(await self.of_task(task))]
        ended = [one for one in mine if one.phase in telling and not one.is_accepted]
        past: list[PastAssignment] = []
        for current in ended[:rounds]:
            for row in sorted(await self.assignments(current.id), key=lambda one: one.device):
                if current.closed_at is not None and len(past) < assignments:
                    past.append(
                        PastAssignment(
                            row.state,
                            current.opened_at,
                            current.closed_at,
                            row.assigned_at,
                            row.counted_at,
                            row.expires_at,
                        )
                    )
        durations = [
            (current.opened_at, current.closed_at)
            for current in ended[:rounds]
            if current.closed_at is not None and current.phase not in missed
        ]
        return history_from(durations, past)

    async def last_silence(self, device: DeviceId) -> datetime | None:
        rows = (row for row in self._rows.assignments.values() if row.device == device)
        return max(
            (row.expires_at for row in rows if row.state is AssignmentState.EXPIRED and row.expires_at),
            default=None,
        )

    async def participations(self, task: TaskName, device: DeviceId) -> int:
        return sum(
            row.device == device
            and row.state is AssignmentState.COUNTED
            and self._rows.rounds[row.round_id].round.task == task
            for row in self._rows.assignments.values()
        )

    async def participations_by_task(self, device: DeviceId) -> dict[TaskName, int]:
        return dict(
            Counter(
                self._rows.rounds[row.round_id].round.task
                for row in self._rows.assignments.values()
                if row.device == device and row.state is AssignmentState.COUNTED
            )
        )

    async def add_verdicts(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        for round_id, more in counts.items():
            mine = self._rows.verdicts.setdefault(round_id, {})
            for verdict, count in more.items():
                mine[verdict] = mine.get(verdict, 0) + count

    async def verdicts(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        mine = {record.round.id for record in self._rows.rounds.values() if record.round.task == task}
        wanted = mine if round_id is None else mine & {round_id}
        return {one: dict(found) for one, found in self._rows.verdicts.items() if one in wanted}

    async def clear_up(self, round_id: RoundId) -> None:
        for key in list(self._rows.assignments):
            if key[0] == round_id and key[1] not in self._rows.devices:
                del self._rows.assignments[key]
        for row in await self.partials(round_id):
            del self._rows.partials[round_id, row.replica]

    def _outstanding(self, task: TaskName, since: datetime) -> list[AssignmentRecord]:
        return [
            row
            for row in self._rows.assignments.values()
            if row.state is AssignmentState.ASSIGNED
            and row.assigned_at > since
            and self._rows.rounds[row.round_id].round.task == task
        ]

    def _advanced(self, round_id: RoundId, event: Event, at: datetime) -> RoundRecord:
        record = self._rows.rounds.get(round_id)
        if record is None:
            raise Superseded(round_id)
        try:
            return replace(record, round=advance(record.round, event, at))
        except IllegalEvent as error:
            raise Superseded(f"{round_id}: {error}") from None


class _Leases:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def acquire(self, name: str, holder: str, ttl_s: float, now: datetime) -> LeaseRecord:
        before = self._rows.leases.get(name)
        expires_at = now + timedelta(seconds=ttl_s)
        if before is None:
            after = LeaseRecord(name=name, holder=holder, epoch=1, expires_at=expires_at)
        elif before.holder == holder:
            after = replace(before, expires_at=expires_at)
        elif not before.holder or not now < before.expires_at <= now + 2 * (expires_at - now):
            after = replace(before, holder=holder, epoch=before.epoch + 1, expires_at=expires_at)
        else:
            after = before
        self._rows.leases[name] = after
        return after

    async def release(self, name: str, holder: str) -> None:
        before = self._rows.leases.get(name)
        if before is not None and before.holder == holder:
            self._rows.leases[name] = replace(before, holder="")

    async def held(self, prefix: str, now: datetime) -> list[LeaseRecord]:
        rows = (self._rows.leases[name] for name in sorted(self._rows.leases) if name.startswith(prefix))
        return [row for row in rows if row.holder and row.expires_at > now]


class _Devices:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, device: DeviceRecord) -> None:
        if device.id in self._rows.devices:
            raise AlreadyExists(device.id)
        self._rows.devices[device.id] = device

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        return self._rows.devices.get(device)

    async def seen(self, device: DeviceId, app_build: int, locale: str, at: datetime) -> bool:
        before = self._rows.devices.get(device)
        if before is None:
            return False
        self._rows.devices[device] = replace(before, app_build=app_build, locale=locale, last_seen_at=at)
        return True

    async def renew(
        self, before: DeviceRecord, after: DeviceRecord, revocation: RevocationRecord | None
    ) -> bool:
        row = self._rows.devices.get(before.id)
        if row is None or row.token_generation != before.token_generation:
            return False
        was, becomes = asdict(before), asdict(after)
        changed = {name: value for name, value in becomes.items() if value != was[name]}
        self._rows.devices[before.id] = replace(row, **changed)
        if revocation is not None:
            self._rows.revocations[revocation.device_digest] = revocation
        return True

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        are_proven = [
            device.last_contributed_at is not None
            for device in self._rows.devices.values()
            if device.population == population and device.last_seen_at >= since
            if device.last_seen_at > device.enrolled_at
        ]
        return ActiveDevices(sum(are_proven), len(are_proven) - sum(are_proven))

    async def count(self, population: PopulationName) -> int:
        return sum(device.population == population for device in self._rows.devices.values())

    async def set_has_head(self, device: DeviceId) -> None:
        if device in self._rows.devices:
            self._rows.devices[device] = replace(self._rows.devices[device], has_head=True)

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        mine = sorted(
            device.id
            for device in self._rows.devices.values()
            if device.population == population and (after is None or device.id > after)
        )
        return [self._rows.devices[device] for device in mine[:limit]]

    async def of_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        theirs = (row for row in self._rows.devices.values() if row.user_digest in users)
        return sorted(theirs, key=lambda row: row.id)

    async def of_subject(self, subject_digest: str) -> list[DeviceRecord]:
        same = (row for row in self._rows.devices.values() if row.subject_digest == subject_digest)
        return sorted(same, key=lambda row: row.id)

    async def set_standing(
        self,
        device: DeviceId,
        before: bytes | None,
        standing_json: bytes | None,
        quarantined_until: datetime | None,
    ) -> bool:
        row = self._rows.devices.get(device)
        if row is None or row.standing_json != before:
            return False
        self._rows.devices[device] = replace(
            row, standing_json=standing_json, quarantined_until=quarantined_until
        )
        return True

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        every = ((row.id, row.quarantined_until) for row in self._rows.devices.values())
        return {device: until for device, until in every if until is not None and until > now}

    async def some(self, population: PopulationName, limit: int) -> list[DeviceRecord]:
        mine = [row for row in self._rows.devices.values() if row.population == population]
        kept_out = sorted(
            (row for row in mine if row.quarantined_until is not None),
            key=lambda row: (row.quarantined_until, row.id),
            reverse=True,
        )
        others = (row for row in mine if row.quarantined_until is None)
        seen = sorted(others, key=lambda row: (row.last_seen_at, row.id), reverse=True)
        return [*kept_out, *seen][:limit]

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        remains: Remains,
        at: datetime,
    ) -> int:
        rows = self._rows
        gone = sorted(set(forgotten) & rows.devices.keys())
        for device in gone:
            counts = await _Rounds(rows).participations_by_task(device)
            await _Tombstones(rows).add(remains(rows.devices[device], counts))
        for key, row in list(rows.assignments.items()):
            record = rows.rounds[row.round_id]
            if row.device not in forgotten:
                continue
            if record.round.is_over:
                del rows.assignments[key]
            elif row.state is AssignmentState.ASSIGNED:
                rows.assignments[key] = replace(row, state=AssignmentState.FAILED)
                if record.round.phase is Phase.COLLECTING:
                    after = replace(record, round=advance(record.round, Failed(), at))
                    rows.rounds[row.round_id] = after
        for device in gone:
            del rows.devices[device]
        for one in revocations:
            rows.revocations[one.device_digest] = one
        return len(gone)


class _Revocations:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def get(self, device_digest: str) -> RevocationRecord | None:
        return self._rows.revocations.get(device_digest)

    async def since(self, written_at: datetime | None) -> list[RevocationRecord]:
        every = self._rows.revocations.values()
        return [one for one in every if written_at is None or one.written_at >= written_at]

    async def prune(self, now: datetime, limit: int) -> int:
        over = [key for key, one in self._rows.revocations.items() if one.until <= now][:limit]
        for key in over:
            del self._rows.revocations[key]
        return len(over)


class _Tombstones:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        for record in records:
            known = self._rows.tombstones.get(record.digest)
            self._rows.tombstones[record.digest] = record if known is None else known.merged(record)

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        known = (self._rows.tombstones.get(digest) for digest in sorted(set(digests)))
        return [one for one in known if one is not None and one.until > now]

    async def prune(self, now: datetime, limit: int) -> int:
        over = [key for key, one in self._rows.tombstones.items() if one.until <= now][:limit]
        for key in over:
            del self._rows.tombstones[key]
        return len(over)


class _Heads:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def put(self, record: HeadRecord, replaces: bytes | None) -> None:
        """The owner's head from now on."""
        key = record.population, record.owner
        there = self._rows.heads.get(key)
        if replaces is not None and (there.tag if there else b"") != replaces:
            raise Superseded
        self._rows.heads[key] = record

    async def get(self, population: PopulationName, owner: str) -> HeadRecord | None:
        """One owner's head."""
        return self._rows.heads.get((population, owner))

    async def size(self, population: PopulationName, owner: str) -> int:
        """Bytes of one owner's head."""
        found = self._rows.heads.get((population, owner))
        return 0 if found is None else len(found.sealed)

    async def stored_bytes(self) -> int:
        """Bytes of all heads."""
        return sum(len(record.sealed) for record in self._rows.heads.values())

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete; how many there were."""
        return sum(self._rows.heads.pop((population, owner), None) is not None for owner in owners)

    async def scrub(self) -> bool:
        """Nothing is anywhere else."""
        return True

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[HeadRecord]:
        """The next heads that are not under this key, by owner."""
        every = sorted(self._rows.heads.values(), key=lambda record: record.owner)
        return [one for one in every if one.key_id != key_id and one.owner > after][:limit]

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        key = record.population, record.owner
        if key in self._rows.heads and self._rows.heads[key].sealed == before:
            self._rows.heads[key] = replace(self._rows.heads[key], key_id=record.key_id, sealed=record.sealed)


class _Arrivals:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """So many more."""
        for count in counts:
            there = self._rows.arrivals.get((count.task, count.hour))
            self._rows.arrivals[count.task, count.hour] = (
                count
                if there is None
                else replace(
                    there,
                    check_ins=there.check_ins + count.check_ins,
                    eligible=there.eligible + count.eligible,
                )
            )

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """The task's counts from this hour on."""
        mine = [one for one in self._rows.arrivals.values() if one.task == task and one.hour >= hour]
        return sorted(mine, key=lambda one: one.hour)

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        for key in [key for key in self._rows.arrivals if key[1] < hour]:
            del self._rows.arrivals[key]


class _Cluster:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, name: str) -> str | None:
        """The value of that name."""
        return self._values.get(name)

    async def claim(self, name: str, value: str) -> str:
        """The value of that name: this one, if there was none."""
        return self._values.setdefault(name, value)

    async def replace(self, name: str, before: str, value: str) -> None:
        """Another value."""
        if self._values.get(name) != before:
            raise Superseded
        self._values[name] = value

    async def forget(self, names: Sequence[str]) -> None:
        """No value of these names any more."""
        for name in names:
            self._values.pop(name, None)


class _Retention:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def count(self, doomed: Doomed) -> Pruned:
        """How many would go."""
        assignments, devices, heads, versions = self._named(doomed)
        return Pruned(
            assignments=len(assignments), devices=len(devices), heads=len(heads), versions=len(versions)
        )

    async def delete(self, doomed: Doomed) -> Pruned:
        """They go."""
        gone = await self.count(doomed)
        assignments, devices, heads, versions = self._named(doomed)
        for assignment in assignments:
            del self._rows.assignments[assignment]
        for device in devices:
            del self._rows.devices[device]
        for head in heads:
            del self._rows.heads[head]
        for version in versions:
            del self._rows.versions[version]
        return gone

    async def delete_unproven(self, unproven: UnprovenDevices, limit: int) -> int:
        """They go."""
        under_way = self._under_way()
        going = [
            device.id
            for device in sorted(self._rows.devices.values(), key=lambda one: (one.last_seen_at, one.id))
            if unproven.include(device) and device.id not in under_way
        ][:limit]
        for device_id in going:
            del self._rows.devices[device_id]
        return len(going)

    def _under_way(self) -> set[DeviceId]:
        rounds = self._rows.rounds
        return {key[1] for key in self._rows.assignments if not rounds[key[0]].round.is_over}

    def _named(
        self, doomed: Doomed
    ) -> tuple[
        list[tuple[RoundId, DeviceId]],
        list[DeviceId],
        list[tuple[PopulationName, str]],
        list[tuple[PopulationName, ModelVersion]],
    ]:
        rows = self._rows
        over = {
            record.round.id
            for record in rows.rounds.values()
            if record.round.is_over
            and record.round.closed_at is not None
            and record.round.closed_at < doomed.rounds_ended_before
            and record.round.task not in doomed.spared_tasks
        }
        under_way = self._under_way()
        return (
            [key for key in rows.assignments if key[0] in over],
            [
                device.id
                for device in rows.devices.values()
                if device.last_seen_at < doomed.devices_seen_before or doomed.unproven.include(device)
                if device.id not in under_way
            ],
            [key for key, head in rows.heads.items() if head.updated_at < doomed.devices_seen_before],
            [key for key in doomed.versions if key in rows.versions],
        )
