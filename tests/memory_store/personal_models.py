"""Personal models in memory."""

from collections.abc import Sequence
from dataclasses import replace

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.records import PersonalModelRecord


class MemoryPersonalModelRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def put(self, record: PersonalModelRecord, replaces: bytes | None) -> None:
        """Store an owner's personal model."""
        self._rows.require_population(record.population)
        key = record.population, record.owner
        there = self._rows.personal_models.get(key)
        if replaces is not None and (there.tag if there else b"") != replaces:
            raise Superseded
        self._rows.personal_models[key] = record

    async def get(self, population: PopulationName, owner: str) -> PersonalModelRecord | None:
        """Return one owner's personal model, or None."""
        return self._rows.personal_models.get((population, owner))

    async def size(self, population: PopulationName, owner: str) -> int:
        """Return the size of one owner's encrypted model in bytes; 0 if there is none."""
        found = self._rows.personal_models.get((population, owner))
        return 0 if found is None else len(found.sealed)

    async def stored_bytes(self) -> int:
        """Return the size of all encrypted models in bytes."""
        return sum(len(record.sealed) for record in self._rows.personal_models.values())

    async def delete(self, population: PopulationName, owners: Sequence[str]) -> int:
        """Delete the models of these owners; return how many there were."""
        return sum(self._rows.personal_models.pop((population, owner), None) is not None for owner in owners)

    async def owners(self, population: PopulationName, limit: int) -> list[str]:
        """Return some owners who have a model in this population."""
        return [owner for name, owner in self._rows.personal_models if name == population][:limit]

    async def scrub(self) -> bool:
        """Return True: nothing is stored anywhere else."""
        return True

    async def under_other_keys(self, key_id: str, limit: int, after: str) -> list[PersonalModelRecord]:
        """Return the next models encrypted with other keys, ordered by owner."""
        every = sorted(self._rows.personal_models.values(), key=lambda record: record.owner)
        return [one for one in every if one.key_id != key_id and one.owner > after][:limit]

    async def reseal(self, record: PersonalModelRecord, before: bytes) -> None:
        """Store the same model encrypted with another key, if the stored bytes are still ``before``."""
        key = record.population, record.owner
        if key in self._rows.personal_models and self._rows.personal_models[key].sealed == before:
            self._rows.personal_models[key] = replace(
                self._rows.personal_models[key], key_id=record.key_id, sealed=record.sealed
            )
