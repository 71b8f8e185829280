"""The release history of populations in memory."""

from tests.memory_store.rows import MemoryRows

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.operator_records import ReleaseRecord


class MemoryReleaseRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def append(self, record: ReleaseRecord, *, audit: AuditContext) -> None:
        self._rows.require_population(record.population)
        for version in record.versions:
            known = self._rows.versions.get((record.population, version))
            if known is None or known.withdrawn_at is not None:
                raise Superseded(record.population)
        self._rows.append_release(record, audit)

    async def newest(self, population: PopulationName) -> ReleaseRecord | None:
        return self._rows.newest_release(population)

    async def all_newest(self) -> dict[PopulationName, ReleaseRecord]:
        found = {name: self._rows.newest_release(name) for name in sorted(self._rows.populations)}
        return {name: state for name, state in found.items() if state is not None}

    async def page(self, population: PopulationName, before: int | None, limit: int) -> list[ReleaseRecord]:
        history = reversed(self._rows.releases.get(population, []))
        return [one for one in history if before is None or one.sequence < before][:limit]
