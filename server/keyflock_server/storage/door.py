"""The door to what survives: tables of rows, and blobs. The coordinator knows these protocols and no more.

Every method is one transaction: all of it happened when it returns, none of it when it raises.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NamedTuple, Protocol, Self, TypedDict

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
from keyflock_server.rounds.round import Carried, Event, Phase, Summarised
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    HeadRecord,
    LeaseRecord,
    PartialRecord,
    PopulationRecord,
    RevocationRecord,
    RoundRecord,
    StoredBlob,
    TaskRecord,
    TombstoneRecord,
)
from keyflock_server.storage.retention import Doomed, Pruned, UnprovenDevices


class StorageError(Exception):
    """Fault of the operator or the machine: the store cannot be used; the message says why and what to do."""

    #: The message is ours, and quotes no row: a log may hold it.
    is_loggable: ClassVar[bool] = True


class StorageUnavailable(StorageError):
    """The store does not answer now: gone, full, busy or cut off. What was asked may be tried again soon.

    Whether a transaction that ended so was committed cannot always be known: read again before repeating it.
    """


class StorageDamaged(StorageUnavailable):
    """What is stored cannot be read as what was written; it is left as it is, for trying again mends nothing.

    The operator restores the backup.
    """


class UnreadableRow(NamedTuple):
    """A row of a task or of one of its rounds that is damaged: the others can be worked with all the same."""

    task: TaskName
    error: StorageDamaged


class BlobMissing(StorageError):
    """There is no blob of that key."""


class AlreadyExists(Exception):
    """A row of that key is there."""


class Superseded(Exception):
    """The row is not the one that the writer believed to change; nothing was changed."""


class PartialMoved(Exception):
    """The process's partial aggregate is not the one that it believed to replace; nothing was changed.

    An earlier flush of its own, which it had given up as lost, was committed after all.
    """


class NotOpen(Exception):
    """Reports have no open assignment: another process has counted them, they were given back, or ran out.

    Args:
        rows: Their assignments as they are; one that is not there has no row.
        missing: Ids of all of them.
    """

    def __init__(self, rows: Collection[AssignmentRecord], missing: Collection[AssignmentId]) -> None:
        super().__init__(f"{len(missing)} reports have no open assignment")
        self.rows = tuple(rows)
        self.missing = frozenset(missing)

    @classmethod
    def among(
        cls,
        reported: Collection[AssignmentId],
        rows: Collection[AssignmentRecord],
        enrolled: Collection[DeviceId],
    ) -> Self | None:
        """What is wrong with a flush of these reports, given their assignments and devices; None: nothing."""
        is_open = (row.state is AssignmentState.ASSIGNED and row.device in enrolled for row in rows)
        missing = set(reported) - {row.id for row, good in zip(rows, is_open, strict=True) if good}
        return cls([row for row in rows if row.id in missing], missing) if missing else None


#: Gives now, aware UTC.
Clock = Callable[[], datetime]
#: What must outlive a device, from its row and its counted reports by task.
Remains = Callable[[DeviceRecord, Mapping[TaskName, int]], Sequence[TombstoneRecord]]


class Changes(TypedDict, total=False):
    """Columns of a round that are not its state."""

    aggregate_key: str | None
    stepped_from: ModelVersion | None
    checkpoint_key: str | None
    download_key: str | None
    state_key: str | None
    average_key: str | None
    released_key: str | None


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback leaves behind, to be cleared up by whoever asked for it."""

    #: The rounds that were given up, as they are now.
    rounds: tuple[RoundRecord, ...]
    #: Blobs that nothing points to any more: the average, and the tasks' optimiser states.
    keys: tuple[str, ...]


class PopulationTable(Protocol):
    """Populations and their model versions."""

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        """A new population with its version 0; raises AlreadyExists."""
        ...

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """One population."""
        ...

    async def all(self) -> list[PopulationRecord]:
        """All, by name."""
        ...

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        """One version."""
        ...

    async def versions(self) -> list[VersionRecord]:
        """All versions of all populations."""
        ...

    async def withdrawn(self, name: PopulationName) -> frozenset[ModelVersion]:
        """Return the versions of a population that rollbacks took back, as far as they were not pruned."""
        ...

    async def roll_back(self, version: VersionRecord, latest: ModelVersion, reason: str) -> RolledBack:
        """Make ``version`` the newest, and withdraw all between it and its parent.

        The population's average and the optimiser states of its tasks are forgotten, and every round of the
        population that has not published is discarded, however far it has come.

        Args:
            version: Copies of its parent's blobs, under keys of its own; created at the time of the rollback.
            latest: What was the newest when the copies were made.
            reason: The operator's.
        Raises:
            Superseded: another version is the newest by now, or the parent is gone or withdrawn; nothing was
                changed.
        """
        ...


class TaskTable(Protocol):
    """Tasks."""

    async def add(self, task: TaskRecord) -> None:
        """A new task; raises AlreadyExists."""
        ...

    async def get(self, name: TaskName) -> TaskRecord | None:
        """One task."""
        ...

    async def all(self, unreadable: list[UnreadableRow] | None = None) -> list[TaskRecord]:
        """All, oldest first; rows that are damaged go into ``unreadable``, or raise StorageDamaged."""
        ...

    async def set_status(self, name: TaskName, status: TaskStatus) -> None:
        """Where the task stands now."""
        ...

    async def claim_norm_scales(self, name: TaskName, norm_scales_json: bytes) -> bytes:
        """Return the task's norm scales: these, if there were none."""
        ...


class RoundTable(Protocol):
    """Rounds, their assignments and their partial aggregates.

    Whoever changes a round says what happened, not how the row looks afterwards: the row is read, advanced by
    the table of ``rounds.round`` and written in one transaction, so that several processes may do it at once.
    """

    async def add(self, record: RoundRecord) -> None:
        """A new round.

        Raises:
            AlreadyExists: another process has opened it, or another round of the task that is not over.
        """
        ...

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """One round."""
        ...

    async def of_task(self, task: TaskName, last: int | None = None) -> list[RoundRecord]:
        """A task's rounds, by sequence; only the newest ``last`` of them, if given."""
        ...

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        """How many of a task's rounds are in each phase; those that none is in are left out."""
        ...

    async def tally(self, task: TaskName) -> tuple[int, int]:
        """A task's rounds so far, and how many of them came to a result and are closed."""
        ...

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:
        """Rounds that are not in a final phase, oldest first; damaged rows as in ``TaskTable.all``."""
        ...

    async def advance(self, round_id: RoundId, event: Event, at: datetime, changes: Changes) -> RoundRecord:
        """The round after the event, its other columns changed too.

        Raises:
            Superseded: the event does not happen to the round as it stands now; nothing was changed.
        """
        ...

    async def assign(self, assignment: AssignmentRecord) -> RoundRecord:
        """The round with one slot more taken, and by whom.

        Raises:
            AlreadyExists: the device is in the round.
            Superseded: no slot is left, the round takes nobody any more, or the device is not enrolled.
        """
        ...

    async def fail(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        """The assignment given back, and the round with it while it collects.

        Raises:
            Superseded: the assignment is counted, given back already, or has run out of time.
        """
        ...

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        spared: Collection[AssignmentId] = (),
        heard: Collection[AssignmentId] = (),
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        """Mark the assignments that ran out of time before then, and count a silence against their devices.

        A device whose assignment was cut short by the end of its round is not silent: see
        ``records.is_silence``. Of an asynchronous task the assignments of earlier buffers are marked too.

        Args:
            round_id: The round; one that takes nobody any more stays as it is, and its assignments end.
            before: Assignments that ran out at this instant or earlier.
            spared: Assignments whose reports wait to be counted.
            heard: Assignments whose reports came and were not taken: they run out, and nobody was silent.
        Returns:
            The round with their slots free again, and which they were; None when there are none.
        """
        ...

    async def commit_flush(
        self,
        partial: PartialRecord,
        reports: Sequence[CountedReport],
        at: datetime,
        replaces: str | None = None,
    ) -> RoundRecord:
        """The process's new partial aggregate, and the reports that are new in it: both or neither.

        Args:
            partial: What it has summed of the round, these reports included.
            reports: These reports.
            at: When.
            replaces: Key of its partial aggregate before; None if this is its first of the round.
        Raises:
            PartialMoved: its partial aggregate is another one than it believed to replace.
            Superseded: the round takes no reports any more.
            NotOpen: some of the reports have no open assignment (any more), or their devices are not
                enrolled (any more); it names them.
        """
        ...

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        """The round's partial aggregates, by replica."""
        ...

    async def carry(self, before: RoundId, event: Carried, after: RoundRecord) -> RoundRecord:
        """The round ended, and the next one opened with its partial aggregates.

        Returns:
            The next round.
        Raises:
            Superseded: the round, or its model, has moved on.
        """
        ...

    async def publish(
        self,
        round_id: RoundId,
        version: VersionRecord,
        optimizer_state_key: str,
        at: datetime,
        norm_scales_json: bytes | None = None,
    ) -> RoundRecord:
        """The round's new version, as the population's newest, and the task's optimiser state with it.

        Args:
            round_id: The round.
            version: What it has made.
            optimizer_state_key: Where the optimiser's state lies from now on.
            at: When.
            norm_scales_json: The task's norm scales from now on; None leaves them.
        Raises:
            Superseded: the round has moved on, or the version's parent is not the newest.
        """
        ...

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        """The round's end, and what its population is personalised with from now on.

        Args:
            round_id: The round.
            event: What it found.
            before: What the population was believed to be personalised with.
            after: What it is from now on; None leaves it.
            at: When.
        Raises:
            Superseded: the round has moved on, or the population is personalised with something else.
        """
        ...

    async def assignments(self, round_id: RoundId) -> list[AssignmentRecord]:
        """The round's assignments."""
        ...

    async def assignment(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        """One device's assignment in the round."""
        ...

    async def outstanding(self, task: TaskName, since: datetime, until: datetime) -> int:
        """Assignments of a task made in between that nothing has come of yet.

        Those of versions that were withdrawn are none: their reports would not be taken.
        """
        ...

    async def outstanding_of(
        self, task: TaskName, device: DeviceId, since: datetime
    ) -> AssignmentRecord | None:
        """A device's newest assignment of a task made since then that nothing has come of yet."""
        ...

    async def history(self, task: TaskName, rounds: int, assignments: int) -> RoundHistory:
        """What became of the task's last rounds that closed or were abandoned, and were never held.

        Args:
            task: Whose.
            rounds: At most so many, the latest.
            assignments: At most so many of theirs, of the latest rounds first.
        """
        ...

    async def last_silence(self, device: DeviceId) -> datetime | None:
        """When the device's latest assignment ran out of time; None: no such assignment is kept."""
        ...

    async def participations(self, task: TaskName, device: DeviceId) -> int:
        """Reports of this device that the task has counted."""
        ...

    async def participations_by_task(self, device: DeviceId) -> dict[TaskName, int]:
        """Return the reports of this device that were counted, by task."""
        ...

    async def clear_up(self, round_id: RoundId) -> None:
        """Delete the round's partial aggregates' rows, and the assignments of devices that are forgotten."""
        ...

    async def add_verdicts(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """So many more of each verdict, whoever else is counting."""
        ...

    async def verdicts(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """What was said of the reports to the task's rounds, or one of them; silent ones are left out."""
        ...


class LeaseTable(Protocol):
    """Leases. They save work; that nothing is done twice is the round table's business."""

    async def acquire(self, name: str, holder: str, ttl_s: float, now: datetime) -> LeaseRecord:
        """Take the lease, or renew it, if nobody else holds it.

        One that ends more than twice its life from now was taken by a clock that was wrong: its holder may be
        gone, and it is free.

        Returns:
            The lease as it is now: of whoever holds it.
        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """Let another have it at once; nothing happens if it is not held."""
        ...

    async def held(self, prefix: str, now: datetime) -> list[LeaseRecord]:
        """The leases of such names that have not expired, by name."""
        ...


class DeviceTable(Protocol):
    """Enrolled devices."""

    async def add(self, device: DeviceRecord) -> None:
        """Enrol a new device."""
        ...

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        """One device."""
        ...

    async def seen(self, device: DeviceId, app_build: int, locale: str, at: datetime) -> bool:
        """The device has checked in.

        Returns:
            Whether it is enrolled; one that was forgotten does not come back.
        """
        ...

    async def renew(
        self, before: DeviceRecord, after: DeviceRecord, revocation: RevocationRecord | None
    ) -> bool:
        """Change a device whose tokens change: what ``after`` says otherwise than ``before`` is written.

        Args:
            before: As the row was read.
            after: The same device as it is to be.
            revocation: What becomes of its earlier tokens, in the same transaction; None: nothing new.
        Returns:
            Whether it was written: False if the device has another token generation by now, or is gone.
        """
        ...

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        """Count the devices of a population that were seen since then, and since they enrolled."""
        ...

    async def count(self, population: PopulationName) -> int:
        """Devices enrolled in a population."""
        ...

    async def set_has_head(self, device: DeviceId) -> None:
        """Note that the device has stored a personal model; nothing happens if it is not enrolled."""
        ...

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        """Some devices of a population, by id, from the one that follows ``after``."""
        ...

    async def of_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        """Return all devices of these users, by id."""
        ...

    async def of_subject(self, subject_digest: str) -> list[DeviceRecord]:
        """Return all devices that are the same attested installation, by id."""
        ...

    async def set_standing(
        self,
        device: DeviceId,
        before: bytes | None,
        standing_json: bytes | None,
        quarantined_until: datetime | None,
    ) -> bool:
        """What is held against the device from now on.

        Args:
            device: Which.
            before: The ``standing_json`` that this was worked out from.
            standing_json: What takes its place.
            quarantined_until: Until when the device is kept out.
        Returns:
            Whether it was written: False if something else than ``before`` is there, or no such device.
        """
        ...

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        """The devices that are kept out now, of all populations, and until when."""
        ...

    async def some(self, population: PopulationName, limit: int) -> list[DeviceRecord]:
        """Devices of a population: those ever quarantined first, the latest end first; then the last seen."""
        ...

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        remains: Remains,
        at: datetime,
    ) -> int:
        """Delete these devices: nothing of them is counted in any round once this returns.

        Their open assignments in rounds that are not over are given back, so that their slots are free
        again; their assignments in rounds that are over are deleted.

        Args:
            forgotten: Which devices.
            revocations: What their tokens are from now on.
            remains: Says what must outlive each; it is asked for each row as it goes, and merged with what
                outlived others.
            at: When.
        Returns:
            How many devices are gone.
        """
        ...


class RevocationTable(Protocol):
    """Device tokens that are void though they have not expired."""

    async def get(self, device_digest: str) -> RevocationRecord | None:
        """Return what is void of one device's tokens."""
        ...

    async def since(self, written_at: datetime | None) -> list[RevocationRecord]:
        """Return what was written at that instant or later; None: all that there is."""
        ...

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows that say nothing any more; return how many went."""
        ...


class TombstoneTable(Protocol):
    """What outlives forgotten devices."""

    async def add(self, records: Collection[TombstoneRecord]) -> None:
        """Write tombstones, merged with those of the same digests."""
        ...

    async def among(self, digests: Collection[str], now: datetime) -> list[TombstoneRecord]:
        """Return the tombstones of these digests that still hold, by digest."""
        ...

    async def prune(self, now: datetime, limit: int) -> int:
        """Delete at most ``limit`` rows that hold no longer; return how many went."""
        ...


class HeadTable(Protocol):
    """Encrypted heads, one an owner and population."""

    async def put(self, record: HeadRecord, replaces: bytes | None) -> None:
        """The owner's head from now on.

        Args:
            record: The head.
            replaces: Tag of the one there; empty: there is none; None: whatever there is.
        Raises:
            Superseded: something else is there; nothing was changed.
        """
        ...

    async def get(self, population: PopulationName, owner: str) -> HeadRecord | None:
        """One owner's head."""
        ...

    async def size(self, population: PopulationName, owner: str) -> int:
        """Bytes of one owner's head, sealed; 0: there is none."""
        ...

    async def stored_bytes(self) -> int:
        """Bytes of all heads, sealed."""
        ...

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete; how many there were."""
        ...

    async def scrub(self) -> bool:
        """Take what was deleted out of the store's own files, as far as the back end can.

        SQLite overwrites it. PostgreSQL frees its place for other rows, and its write-ahead log, archives and
        standbys keep it for as long as they are kept (docs/operations.md).

        Returns:
            False when something was in the way: try again.
        """
        ...

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[HeadRecord]:
        """The next heads that are not under this key, by owner, whose owners come after ``after``."""
        ...

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        ...


class ArrivalTable(Protocol):
    """Check-ins by task and hour, over all phones."""

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """So many more, on top of what any process has counted."""
        ...

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """The task's counts from this hour on, oldest first."""
        ...

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        ...


class ClusterTable(Protocol):
    """What all processes over one store must agree on, by name."""

    async def get(self, name: str) -> str | None:
        """The value of that name."""
        ...

    async def claim(self, name: str, value: str) -> str:
        """The value of that name: this one, if there was none."""
        ...

    async def replace(self, name: str, before: str, value: str) -> None:
        """Another value; raises Superseded when the one there is not ``before``."""
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """No value of these names any more."""
        ...


class RetentionTable(Protocol):
    """Rows that have been kept for long enough."""

    async def count(self, doomed: Doomed) -> Pruned:
        """How many would go."""
        ...

    async def delete(self, doomed: Doomed) -> Pruned:
        """They go, all or none. Devices that take part in an unfinished round stay."""
        ...

    async def delete_unproven(self, unproven: UnprovenDevices, limit: int) -> int:
        """Delete at most ``limit`` of the devices that ``unproven`` describes; how many went.

        Devices that take part in an unfinished round stay.
        """
        ...


class Store(Protocol):
    """All tables."""

    populations: PopulationTable
    tasks: TaskTable
    rounds: RoundTable
    devices: DeviceTable
    revocations: RevocationTable
    tombstones: TombstoneTable
    heads: HeadTable
    leases: LeaseTable
    arrivals: ArrivalTable
    cluster: ClusterTable
    retention: RetentionTable

    @property
    def name(self) -> str:
        """Which database it is, for messages; without secrets."""
        ...

    async def exists(self) -> bool:
        """Whether there is a database; ``open`` makes one where there is none. Makes nothing."""
        ...

    async def open(self) -> None:
        """Ready for use; raises StorageError."""
        ...

    async def close(self) -> None:
        """Nothing is held any more."""
        ...


class Blobs(Protocol):
    """Immutable byte strings by key. A key is written once; but for the marker, which may be overwritten."""

    @property
    def name(self) -> str:
        """Where they are, for messages; without secrets."""
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Durably there when it returns; raises StorageError."""
        ...

    async def create(self, key: str, data: bytes) -> bool:
        """As ``put``, unless there is one of that key: then False, also if another process is at it."""
        ...

    async def get(self, key: str) -> bytes:
        """The bytes; raises BlobMissing when there are none, and StorageError."""
        ...

    async def delete(self, key: str) -> None:
        """Gone; no error when it was."""
        ...

    def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """All that there are; raises StorageError."""
        ...
