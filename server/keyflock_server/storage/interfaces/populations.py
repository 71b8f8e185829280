"""The interface to populations and their model versions."""

from dataclasses import dataclass
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
        """Add a population with its version 0; raises AlreadyExists."""
        ...

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        """Return the population of this name, or None."""
        ...

    async def all(self) -> list[PopulationRecord]:
        """Return all populations, ordered by name."""
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
