"""Populations and model versions in memory."""

from dataclasses import replace

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.rounds.round import advance
from keyflock_server.storage.errors import AlreadyExists, Superseded
from keyflock_server.storage.interfaces.populations import RollbackResult
from keyflock_server.storage.records import PopulationRecord


class MemoryPopulationRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        if population.name in self._rows.populations:
            raise AlreadyExists(population.name)
        self._rows.populations[population.name] = population
        self._rows.versions[population.name, version.version] = version

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        return self._rows.populations.get(name)

    async def all(self) -> list[PopulationRecord]:
        return [self._rows.populations[name] for name in sorted(self._rows.populations)]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        return self._rows.versions.get((name, version))

    async def versions(self) -> list[VersionRecord]:
        return [self._rows.versions[key] for key in sorted(self._rows.versions)]

    async def withdrawn(self, name: PopulationName) -> frozenset[ModelVersion]:
        mine = (one for one in self._rows.versions.values() if one.population == name)
        return frozenset(one.version for one in mine if one.withdrawn_at is not None)

    async def roll_back(self, version: VersionRecord, latest: ModelVersion, reason: str) -> RollbackResult:
        name, at, to = version.population, version.created_at, version.parent
        population = self._rows.populations.get(name)
        restored = None if to is None else self._rows.versions.get((name, to))
        is_gone = restored is None or restored.withdrawn_at is not None
        if population is None or population.latest_version != latest or to is None or is_gone:
            raise Superseded(name)
        discarded = []
        for round_id, record in sorted(self._rows.rounds.items()):
            current = record.round
            if current.population == name and not (current.is_over or current.is_committed):
                event = discarded_by_rollback(current, to, reason)
                discarded.append(replace(record, round=advance(current, event, at)))
                self._rows.rounds[round_id] = discarded[-1]
        for key, one in self._rows.versions.items():
            if one.population == name and to < one.version and one.withdrawn_at is None:
                self._rows.versions[key] = replace(one, withdrawn_at=at)
        self._rows.versions[name, version.version] = version
        chosen = population.anchor_loss_chosen if version.anchor_loss is None else version.anchor_loss
        self._rows.populations[name] = replace(
            population, latest_version=version.version, average_key=None, anchor_loss_chosen=chosen
        )
        keys = [] if population.average_key is None else [population.average_key]
        for task_name, task in self._rows.tasks.items():
            if task.spec.population == name and task.optimizer_state_key is not None:
                keys.append(task.optimizer_state_key)
                self._rows.tasks[task_name] = replace(task, optimizer_state_key=None)
        return RollbackResult(tuple(discarded), tuple(keys))
