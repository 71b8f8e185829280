"""An honest fake: the same promises as the real store, in dictionaries. For tests and short simulations."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
    UserId,
)
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.door import (
    AlreadyExists,
    Clock,
    ClusterTable,
    DeviceTable,
    HeadTable,
    PopulationTable,
    RetentionTable,
    RoundTable,
    StorageError,
    Superseded,
    TaskTable,
)
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    HeadRecord,
    PopulationRecord,
    RoundRecord,
    StoredBlob,
    TaskRecord,
)
from keyflock_server.storage.retention import Doomed, Pruned


class _Rows:
    def __init__(self) -> None:
        self.populations: dict[PopulationName, PopulationRecord] = {}
        self.versions: dict[tuple[PopulationName, ModelVersion], VersionRecord] = {}
        self.tasks: dict[TaskName, TaskRecord] = {}
        self.rounds: dict[RoundId, RoundRecord] = {}
        self.devices: dict[DeviceId, DeviceRecord] = {}
        self.assignments: dict[tuple[RoundId, DeviceId], AssignmentRecord] = {}
        self.heads: dict[tuple[PopulationName, str], HeadRecord] = {}


class MemoryStore:
    """``door.Store`` without a disk."""

    def __init__(self) -> None:
        rows = _Rows()
        self.populations: PopulationTable = _Populations(rows)
        self.tasks: TaskTable = _Tasks(rows)
        self.rounds: RoundTable = _Rounds(rows)
        self.devices: DeviceTable = _Devices(rows)
        self.heads: HeadTable = _Heads(rows)
        self.cluster: ClusterTable = _Cluster()
        self.retention: RetentionTable = _Retention(rows)

    async def open(self) -> None:
        """Nothing to do."""

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

    async def put(self, key: str, data: bytes) -> None:
        """Keep."""
        self._blobs[key] = bytes(data)
        self._written_at[key] = self._clock() if self._clock else datetime.min.replace(tzinfo=UTC)

    async def get(self, key: str) -> bytes:
        """Give back."""
        if key not in self._blobs:
            raise StorageError(f"Blob {key} cannot be read: there is none.")
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


class _Tasks:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, task: TaskRecord) -> None:
        if task.name in self._rows.tasks:
            raise AlreadyExists(task.name)
        self._rows.tasks[task.name] = task

    async def get(self, name: TaskName) -> TaskRecord | None:
        return self._rows.tasks.get(name)

    async def all(self) -> list[TaskRecord]:
        return sorted(self._rows.tasks.values(), key=lambda task: (task.created_at, task.name))

    async def set_status(self, name: TaskName, status: TaskStatus) -> None:
        self._rows.tasks[name] = replace(self._rows.tasks[name], status=status)


class _Rounds:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, record: RoundRecord) -> None:
        taken = {(other.round.task, other.round.sequence) for other in self._rows.rounds.values()}
        if record.round.id in self._rows.rounds or (record.round.task, record.round.sequence) in taken:
            raise AlreadyExists(record.round.id)
        self._rows.rounds[record.round.id] = record

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        return self._rows.rounds.get(round_id)

    async def of_task(self, task: TaskName) -> list[RoundRecord]:
        mine = [record for record in self._rows.rounds.values() if record.round.task == task]
        return sorted(mine, key=lambda record: record.round.sequence)

    async def unfinished(self) -> list[RoundRecord]:
        return [record for record in self._rows.rounds.values() if not record.round.is_over]

    async def save(self, record: RoundRecord) -> None:
        self._rows.rounds[record.round.id] = record

    async def assign(self, record: RoundRecord, assignment: AssignmentRecord) -> None:
        key = (assignment.round_id, assignment.device)
        if key in self._rows.assignments:
            raise AlreadyExists(assignment.id)
        self._rows.assignments[key] = assignment
        await self.save(record)

    async def fail(self, record: RoundRecord, assignment: AssignmentId, session_shape: str) -> None:
        for key, row in self._rows.assignments.items():
            if row.round_id == record.round.id and row.id == assignment:
                failed = replace(row, state=AssignmentState.FAILED, session_shape=session_shape)
                self._rows.assignments[key] = failed
        await self.save(record)

    async def commit_flush(
        self, record: RoundRecord, reports: Sequence[CountedReport], contributed_at: datetime
    ) -> None:
        found = [self._rows.assignments.get((record.round.id, report.device)) for report in reports]
        if any(row is None or row.state is AssignmentState.FAILED for row in found):
            raise StorageError(f"Round {record.round.id}: a report has no open assignment to count for.")
        for report in reports:
            key = (record.round.id, report.device)
            self._rows.assignments[key] = replace(
                self._rows.assignments[key],
                state=AssignmentState.COUNTED,
                report_digest=report.report_digest,
                weight=report.weight,
                session_shape=report.session_shape,
            )
            if report.device in self._rows.devices:
                device = self._rows.devices[report.device]
                self._rows.devices[report.device] = replace(device, last_contributed_at=contributed_at)
        await self.save(record)

    async def publish(self, record: RoundRecord, version: VersionRecord, optimizer_state_key: str) -> None:
        name, task = version.population, record.round.task
        self._rows.versions[name, version.version] = version
        newest = replace(self._rows.populations[name], latest_version=version.version)
        self._rows.populations[name] = newest
        self._rows.tasks[task] = replace(self._rows.tasks[task], optimizer_state_key=optimizer_state_key)
        await self.save(record)

    async def publish_personalisation(self, record: RoundRecord, personalisation_json: bytes | None) -> None:
        name = record.round.population
        if personalisation_json is not None:
            self._rows.populations[name] = replace(
                self._rows.populations[name], personalisation_json=personalisation_json
            )
        await self.save(record)

    async def assignments(self, round_id: RoundId) -> list[AssignmentRecord]:
        return [row for row in self._rows.assignments.values() if row.round_id == round_id]

    async def assignment(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        return self._rows.assignments.get((round_id, device))

    async def purge_forgotten(self, round_id: RoundId) -> None:
        for key in list(self._rows.assignments):
            if key[0] == round_id and key[1] not in self._rows.devices:
                del self._rows.assignments[key]


class _Devices:
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, device: DeviceRecord) -> None:
        if device.id in self._rows.devices:
            raise AlreadyExists(device.id)
        self._rows.devices[device.id] = device

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        return self._rows.devices.get(device)

    async def seen(
        self, device: DeviceId, app_build: int, locale: str, at: datetime, user: UserId | None = None
    ) -> bool:
        before = self._rows.devices.get(device)
        if before is None:
            return False
        self._rows.devices[device] = replace(
            before, app_build=app_build, locale=locale, last_seen_at=at, user=user or before.user
        )
        return True

    async def count_active(self, population: PopulationName, since: datetime) -> int:
        mine = (device for device in self._rows.devices.values() if device.population == population)
        return sum(device.last_seen_at >= since for device in mine)

    async def count(self, population: PopulationName) -> int:
        return sum(device.population == population for device in self._rows.devices.values())

    async def of_user(self, population: PopulationName, user: UserId) -> list[DeviceRecord]:
        """All devices that named this user."""
        every = self._rows.devices.values()
        return [device for device in every if (device.population, device.user) == (population, user)]

    async def forget(self, device: DeviceId) -> int:
        one = self._rows.devices.get(device)
        if one is None:
            return 0
        gone = {
            other.id
            for other in self._rows.devices.values()
            if other.id == device
            or (one.user is not None and (other.population, other.user) == (one.population, one.user))
        }
        for key, row in list(self._rows.assignments.items()):
            if row.device in gone and self._rows.rounds[row.round_id].round.is_over:
                del self._rows.assignments[key]
        for other in gone:
            del self._rows.devices[other]
        return len(gone)


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

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete; how many there were."""
        return sum(self._rows.heads.pop((population, owner), None) is not None for owner in owners)

    async def scrub(self) -> bool:
        """Nothing is anywhere else."""
        return True

    async def under_other_keys(self, key_id: str, limit: int) -> list[HeadRecord]:
        """Some heads that are not under this key."""
        return [record for record in self._rows.heads.values() if record.key_id != key_id][:limit]

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        key = record.population, record.owner
        if key in self._rows.heads and self._rows.heads[key].sealed == before:
            self._rows.heads[key] = replace(self._rows.heads[key], key_id=record.key_id, sealed=record.sealed)


class _Cluster:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

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
        }
        under_way = {key[1] for key in rows.assignments if not rows.rounds[key[0]].round.is_over}
        return (
            [key for key in rows.assignments if key[0] in over],
            [
                device.id
                for device in rows.devices.values()
                if device.last_seen_at < doomed.devices_seen_before and device.id not in under_way
            ],
            [key for key, head in rows.heads.items() if head.updated_at < doomed.devices_seen_before],
            [key for key in doomed.versions if key in rows.versions],
        )
