"""The interface to populations and their model versions."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

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


class PopulationRepository(Protocol):
    """Stores populations and their model versions."""

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        """Add a population with its version 0; raises AlreadyExists, also if its name is another's."""
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

    async def rename(self, name: PopulationName, to: PopulationName) -> None:
        """Give a population another name; those that it had still resolve to it.

        Raises:
            AlreadyExists: the name is, or was, another population's.
            PopulationGone: the population was deleted.
        """
        ...

    async def mark_deleted(self, name: PopulationName, at: datetime) -> None:
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
        """Delete the tasks and versions of a deleted population that has no rounds and devices any more.

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

    async def roll_back(self, version: VersionRecord, latest: ModelVersion, reason: str) -> RollbackResult:
        """Make ``version`` the newest version, and withdraw all versions between it and its parent.

        The population's average and its tasks' optimiser states are reset. Every round of the population that
        has not published is discarded, in whatever phase it is.

        Args:
            version: The version to add. Its blobs are copies of its parent's, under keys of its own, and it
                is created at the time of the rollback.
            latest: The newest version at the time when the blobs were copied.
            reason: The operator's reason.
        Raises:
            Superseded: another version has become the newest, or the parent was deleted or withdrawn; nothing
                was changed.
        """
        ...
