"""The interface to populations and their model versions."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypedDict

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.storage.records import PopulationRecord, RoundRecord


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """What a rollback leaves behind; its caller deletes the blobs."""

    #: The discarded rounds, after the rollback.
    rounds: tuple[RoundRecord, ...]
    #: Keys of blobs that no row points to any more: the average and the tasks' optimiser states.
    keys: tuple[str, ...]


class PopulationChanges(TypedDict, total=False):
    """The columns of a population that operators change."""

    archived_at: datetime | None
    release_policy_json: str | None


class PopulationRepository(Protocol):
    """Stores populations and their model versions.

    Each change takes an ``AuditContext``, and has an entry in the audit log.
    """

    async def add(self, population: PopulationRecord, version: VersionRecord, *, audit: AuditContext) -> None:
        """Add a population with its version 0, and release that; raises AlreadyExists.

        Raises:
            AlreadyExists: there is a population of this id, or its name is, or was, another's.
        """
        ...

    async def change(
        self,
        name: PopulationName,
        changes: PopulationChanges,
        *,
        audit: AuditContext,
    ) -> PopulationRecord:
        """Change a population's columns, and return it; its revision grows if one of them differs.

        Args:
            name: The population's id.
            changes: The new values.
            audit: Who changes it and why, and the revision that this was decided on.
        Raises:
            Superseded: the population has another revision; nothing was changed.
            PopulationGone: the population was deleted.
        """
        ...

    async def ids_of(self, name: PopulationName) -> list[PopulationName]:
        """Return the ids of all populations that were created under this name, also of deleted ones."""
        ...

    async def resolve(self, name: str) -> PopulationName | None:
        """Return the id of the population that has, or once had, this name; None if there is none."""
        ...

    async def names(self, name: PopulationName) -> list[PopulationName]:
        """Return all names that resolve to a population, in order."""
        ...

    async def rename(self, name: PopulationName, to: PopulationName, *, audit: AuditContext) -> None:
        """Give a population another name; those that it had still resolve to it.

        Raises:
            AlreadyExists: the name is, or was, another population's.
            PopulationGone: the population was deleted.
        """
        ...

    async def mark_deleted(self, name: PopulationName, at: datetime, *, audit: AuditContext) -> None:
        """Delete a population for everybody; its rows are deleted by the calls that follow.

        Guarantees:
            No task, round, device or personal model is added to it after this returns.
        Raises:
            PopulationInUse: it has tasks or rounds that are not over.
            PopulationGone: there is no such population.
        """
        ...

    async def deleting(self) -> list[PopulationName]:
        """Return the deleted populations that still have rows."""
        ...

    async def delete_rounds(self, name: PopulationName, limit: int) -> int:
        """Delete some rounds of a deleted population, with their assignments; return their number."""
        ...

    async def finish_deletion(self, name: PopulationName) -> tuple[str, ...]:
        """Delete tasks, versions and release history of a deleted population without rounds and devices.

        The ids of the tasks and its own stay, so that they are never used again.

        Returns:
            Keys of blobs that no row points to any more; the caller deletes them.
        Raises:
            PopulationGone: there is no such deleted population.
        """
        ...

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """Return the population of this id, or None."""
        ...

    async def all(self) -> list[PopulationRecord]:
        """Return all populations, ordered by id."""
        ...

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        """Return this version of a population, or None."""
        ...

    async def versions(self) -> list[VersionRecord]:
        """Return all versions of all populations."""
        ...

    async def withdrawn(self, name: PopulationName) -> frozenset[ModelVersion]:
        """Return the withdrawn versions of a population, except those that were pruned."""
        ...

    async def set_pinned(
        self, name: PopulationName, version: ModelVersion, pinned_at: datetime | None, *, audit: AuditContext
    ) -> VersionRecord | None:
        """Pin a version, which is then never pruned, or unpin it with None; return it, or None if gone.

        A pinned version that is pinned again stays as it is.
        """
        ...

    async def version_page(
        self, name: PopulationName, before: ModelVersion | None, limit: int
    ) -> list[VersionRecord]:
        """Return a page of a population's versions, newest first, of numbers below ``before``."""
        ...

    async def roll_back(
        self,
        version: VersionRecord,
        latest: ModelVersion,
        reason: str,
        *,
        audit: AuditContext,
    ) -> RollbackResult:
        """Make ``version`` the newest version, and withdraw all versions between it and its parent.

        The population's average and its tasks' optimiser states are reset. Every round of the population that
        has not published is discarded, in whatever phase it is. Where keyboards are served a version that is
        withdrawn, the release history has a row that ends that.

        Args:
            version: The version to add. Its blobs are copies of its parent's, under keys of its own, and it
                is created at the time of the rollback.
            latest: The newest version at the time when the blobs were copied.
            reason: The operator's reason.
            audit: Who rolls back.
        Raises:
            Superseded: another version has become the newest, or the parent was deleted or withdrawn; nothing
                was changed.
        """
        ...
