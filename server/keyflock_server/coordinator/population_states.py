"""The newest version and the release of each population, for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.storage.operator_records import ReleaseRecord


@dataclass(frozen=True, slots=True)
class PopulationState:
    """What rounds of a population train from, and what its keyboards serve."""

    newest: VersionRecord
    release: ReleaseRecord


class PopulationStates:
    """Reads the states in the pass after somebody has looked at them.

    So a server that nobody watches reads nothing, and a scrape never waits for the store.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._states: dict[PopulationName, PopulationState] = {}
        self._is_wanted = True

    def current(self) -> Mapping[PopulationName, PopulationState]:
        """Return what was read last, and have it read again."""
        self._is_wanted = True
        return self._states

    async def refresh_if_wanted(self) -> None:
        """Read the states if somebody has looked since the last time."""
        if not self._is_wanted:
            return
        store, states = self._deps.store, {}
        releases = await store.releases.all_newest()
        for record in await store.populations.all():
            if record.archived_at is not None or record.name not in releases:
                continue
            known = self._states.get(record.name)
            newest = None if known is None else known.newest
            if newest is None or newest.version != record.latest_version:
                newest = await store.populations.version(record.name, record.latest_version)
            if newest is not None:  # it may be gone by now, with its population
                states[record.name] = PopulationState(newest, releases[record.name])
        self._states, self._is_wanted = states, False
