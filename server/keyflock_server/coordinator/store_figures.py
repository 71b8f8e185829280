"""What metrics show of the store: populations' newest versions and releases, the audit log's length."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.storage.operator_records import ReleaseRecord


@dataclass(frozen=True, slots=True)
class PopulationFigures:
    """What rounds of a population train from, and what its keyboards serve."""

    newest: VersionRecord
    release: ReleaseRecord


class StoreFigures:
    """Reads the figures in the pass after somebody has looked at them.

    So a server that nobody watches reads nothing, and a scrape never waits for the store.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._populations: dict[PopulationName, PopulationFigures] = {}
        self._audit_entries = 0
        self._is_wanted = True

    def populations(self) -> Mapping[PopulationName, PopulationFigures]:
        """Return what was read last of the populations that are not archived, and have it read again."""
        self._is_wanted = True
        return self._populations

    @property
    def audit_entries(self) -> int:
        """Return the length of the audit log as it was read last."""
        return self._audit_entries

    async def refresh_if_wanted(self) -> None:
        """Read the figures if somebody has looked since the last time."""
        if not self._is_wanted:
            return
        store, found = self._deps.store, {}
        releases = await store.releases.all_newest()
        for record in await store.populations.all():
            if record.archived_at is not None or record.name not in releases:
                continue
            known = self._populations.get(record.name)
            newest = None if known is None else known.newest
            if newest is None or newest.version != record.latest_version:
                newest = await store.populations.version(record.name, record.latest_version)
            if newest is not None:  # it may be gone by now, with its population
                found[record.name] = PopulationFigures(newest, releases[record.name])
        self._audit_entries = (await store.audit.head()).sequence
        self._populations, self._is_wanted = found, False
