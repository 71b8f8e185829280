"""The interface to encrypted personal models."""

from collections.abc import Sequence
from typing import Protocol

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.records import PersonalModelRecord


class PersonalModelRepository(Protocol):
    """Stores encrypted personal models, one for each owner and population."""

    async def put(self, record: PersonalModelRecord, replaces: bytes | None) -> None:
        """Store an owner's personal model.

        Args:
            record: The personal model.
            replaces: The tag of the stored one; empty if there must be none; None replaces any.
        Raises:
            Superseded: the stored one has another tag; nothing was written.
            PopulationGone: the population was deleted.
        """
        ...

    async def get(self, population: PopulationName, owner: str) -> PersonalModelRecord | None:
        """Return one owner's personal model, or None."""
        ...

    async def size(self, population: PopulationName, owner: str) -> int:
        """Return the size of one owner's encrypted model in bytes; 0 if there is none."""
        ...

    async def stored_bytes(self) -> int:
        """Return the size of all encrypted models in bytes."""
        ...

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete the models of these owners; return how many there were."""
        ...

    async def owners(self, population: PopulationName, limit: int) -> list[str]:
        """Return some owners who have a model in this population."""
        ...

    async def scrub(self) -> bool:
        """Remove deleted models from the database's own files, as far as the back end can.

        SQLite overwrites them. PostgreSQL frees their space for other rows; its write-ahead log, archives and
        standbys retain them for as long as they are retained themselves (docs/operations.md).

        Returns:
            False if another transaction prevented it: try again.
        """
        ...

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[PersonalModelRecord]:
        """Return the next models encrypted with other keys, ordered by owner, from behind ``after``."""
        ...

    async def reseal(self, record: PersonalModelRecord, before: bytes) -> None:
        """Store the same model encrypted with another key, if the stored bytes are still ``before``."""
        ...
