"""The door to what survives: tables of rows, and blobs. The coordinator knows these protocols and no more.

Every method is one transaction: all of it happened when it returns, none of it when it raises.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Protocol

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
from keyflock_server.storage.records import (
    AssignmentRecord,
    CountedReport,
    DeviceRecord,
    HeadRecord,
    PopulationRecord,
    RoundRecord,
    StoredBlob,
    TaskRecord,
)
from keyflock_server.storage.retention import Doomed, Pruned


class StorageError(Exception):
    """Fault of the operator or the machine: the store cannot be used; the message says why and what to do."""


class StorageUnavailable(StorageError):
    """The store does not answer now: gone, full, busy or cut off. What was asked may be tried again soon.

    Whether a transaction that ended so was committed cannot always be known: read again before repeating it.
    """


class AlreadyExists(Exception):
    """A row of that key is there."""


class Superseded(Exception):
    """The row is not the one that the writer believed to replace."""


#: Gives now, aware UTC.
Clock = Callable[[], datetime]


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


class TaskTable(Protocol):
    """Tasks."""

    async def add(self, task: TaskRecord) -> None:
        """A new task; raises AlreadyExists."""
        ...

    async def get(self, name: TaskName) -> TaskRecord | None:
        """One task."""
        ...

    async def all(self) -> list[TaskRecord]:
        """All, oldest first."""
        ...

    async def set_status(self, name: TaskName, status: TaskStatus) -> None:
        """Where the task stands now."""
        ...


class RoundTable(Protocol):
    """Rounds and their assignments."""

    async def add(self, record: RoundRecord) -> None:
        """A new round; raises AlreadyExists when another process has opened it."""
        ...

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """One round."""
        ...

    async def of_task(self, task: TaskName) -> list[RoundRecord]:
        """A task's rounds, by sequence."""
        ...

    async def unfinished(self) -> list[RoundRecord]:
        """Rounds that are not in a final phase."""
        ...

    async def save(self, record: RoundRecord) -> None:
        """The round as it stands now."""
        ...

    async def assign(self, record: RoundRecord, assignment: AssignmentRecord) -> None:
        """The round with one slot more taken, and by whom; raises AlreadyExists."""
        ...

    async def fail(self, record: RoundRecord, assignment: AssignmentId, session_shape: str) -> None:
        """The round with one assignment given back."""
        ...

    async def commit_flush(
        self, record: RoundRecord, reports: Sequence[CountedReport], contributed_at: datetime
    ) -> None:
        """The round with its new partial aggregate, and the reports that are in it: both or neither."""
        ...

    async def publish(self, record: RoundRecord, version: VersionRecord, optimizer_state_key: str) -> None:
        """The round's new version, as the population's newest, and the task's optimiser state with it."""
        ...

    async def publish_personalisation(self, record: RoundRecord, personalisation_json: bytes | None) -> None:
        """The round's end, and what its population is personalised with from now on; None leaves that."""
        ...

    async def assignments(self, round_id: RoundId) -> list[AssignmentRecord]:
        """The round's assignments."""
        ...

    async def assignment(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        """One device's assignment in the round."""
        ...

    async def purge_forgotten(self, round_id: RoundId) -> None:
        """Delete the assignments of devices that are no longer enrolled."""
        ...


class DeviceTable(Protocol):
    """Enrolled devices."""

    async def add(self, device: DeviceRecord) -> None:
        """Enrol a new device."""
        ...

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        """One device."""
        ...

    async def seen(
        self, device: DeviceId, app_build: int, locale: str, at: datetime, user: UserId | None = None
    ) -> bool:
        """The device has checked in, or refreshed its token (then perhaps naming its user).

        Returns:
            Whether it is enrolled; one that was forgotten does not come back.
        """
        ...

    async def count_active(self, population: PopulationName, since: datetime) -> int:
        """Devices of a population that were seen since then."""
        ...

    async def count(self, population: PopulationName) -> int:
        """Devices enrolled in a population."""
        ...

    async def of_user(self, population: PopulationName, user: UserId) -> list[DeviceRecord]:
        """All devices that named this user."""
        ...

    async def forget(self, device: DeviceId) -> int:
        """Delete the device, all devices of its user, and their assignments in rounds that are over.

        Returns:
            How many devices are gone.
        """
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

    async def under_other_keys(self, key_id: str, limit: int) -> list[HeadRecord]:
        """Some heads that are not under this key."""
        ...

    async def reseal(self, record: HeadRecord, before: bytes) -> None:
        """The same head under another key, if its sealed bytes are still those."""
        ...


class ClusterTable(Protocol):
    """What all processes over one store must agree on, by name."""

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


class Store(Protocol):
    """All tables."""

    populations: PopulationTable
    tasks: TaskTable
    rounds: RoundTable
    devices: DeviceTable
    heads: HeadTable
    cluster: ClusterTable
    retention: RetentionTable

    async def open(self) -> None:
        """Ready for use; raises StorageError."""
        ...

    async def close(self) -> None:
        """Nothing is held any more."""
        ...


class Blobs(Protocol):
    """Immutable byte strings by key. A key is written once."""

    async def put(self, key: str, data: bytes) -> None:
        """Durably there when it returns; raises StorageError."""
        ...

    async def get(self, key: str) -> bytes:
        """The bytes; raises StorageError when there are none."""
        ...

    async def delete(self, key: str) -> None:
        """Gone; no error when it was."""
        ...

    def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """All that there are; raises StorageError."""
        ...
