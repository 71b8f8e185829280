"""What metrics show of the store: populations' newest versions and releases, the audit log, the backup."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.release_gate import ReleaseGate
from keyflock_server.coordinator.release_steps import ReleaseSteps, stage_began_at
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.policies import policy_from_json
from keyflock_server.storage.errors import StorageDamaged, StorageUnavailable
from keyflock_server.storage.newest_backup import newest_backup_at
from keyflock_server.storage.operator_records import ReleaseRecord


@dataclass(frozen=True, slots=True)
class CandidateFigures:
    """How a population's candidate stands."""

    #: When it came to the stage that it is in.
    stage_began_at: datetime
    #: What the gate finds of it; None where a version or an evaluation is gone or damaged.
    verdict: GateVerdict | None


@dataclass(frozen=True, slots=True)
class PopulationFigures:
    """What rounds of a population train from, and what its keyboards serve."""

    newest: VersionRecord
    release: ReleaseRecord
    candidate: CandidateFigures | None


class StoreFigures:
    """Reads the figures in the pass after somebody has looked at them.

    So a server that nobody watches reads nothing, and a scrape never waits for the store.
    """

    def __init__(self, deps: Dependencies, gate: ReleaseGate, steps: ReleaseSteps) -> None:
        self._deps = deps
        self._gate = gate
        self._steps = steps
        self._populations: dict[PopulationName, PopulationFigures] = {}
        self._audit_entries = 0
        self._newest_backup_at: datetime | None = None
        self._is_wanted = True

    def populations(self) -> Mapping[PopulationName, PopulationFigures]:
        """Return what was read last of the populations that are not archived, and have it read again."""
        self._is_wanted = True
        return self._populations

    @property
    def audit_entries(self) -> int:
        """Return the length of the audit log as it was read last."""
        return self._audit_entries

    @property
    def newest_backup_at(self) -> datetime | None:
        """Return of which instant the newest backup is; None where none was ever made."""
        return self._newest_backup_at

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
                release = releases[record.name]
                candidate = await self._candidate(release, record.release_policy_json)
                found[record.name] = PopulationFigures(newest, release, candidate)
        self._audit_entries = (await store.audit.head()).sequence
        self._newest_backup_at = await newest_backup_at(store.cluster)
        self._populations, self._is_wanted = found, False

    async def _candidate(self, release: ReleaseRecord, policy_json: str | None) -> CandidateFigures | None:
        if release.candidate is None:
            return None
        began_at = release.at
        try:
            began_at = stage_began_at(await self._steps.recent(release.population)) or began_at
            policy = policy_from_json(policy_json)
            found = await self._gate.judge(release.population, release.candidate, release.version, policy)
        except Exception as error:
            if isinstance(error, StorageUnavailable) and not isinstance(error, StorageDamaged):
                raise
            return CandidateFigures(began_at, None)  # a figure stops no pass: whoever decides hears of it
        return CandidateFigures(began_at, found.report.verdict)
