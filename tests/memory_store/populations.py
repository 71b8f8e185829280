"""Populations and model versions in memory."""

from dataclasses import replace
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.numbered_names import base_name, by_number
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.rounds.round import advance
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, PopulationInUse, Superseded
from keyflock_server.storage.interfaces.populations import RollbackResult
from keyflock_server.storage.records import PopulationRecord


class MemoryPopulationRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, population: PopulationRecord, version: VersionRecord) -> None:
        names = {population.name, population.shown_name}
        if names & self._rows.population_names.keys() or population.name in self._rows.deleted_populations:
            raise AlreadyExists(population.name)
        self._rows.population_names.update(dict.fromkeys(names, population.name))
        self._rows.populations[population.name] = population
        self._rows.versions[population.name, version.version] = version

    async def ids_of(self, name: PopulationName) -> list[PopulationName]:
        every = {*self._rows.populations, *self._rows.deleted_populations}
        return by_number(id_ for id_ in every if base_name(id_) == name)

    async def resolve(self, name: str) -> PopulationName | None:
        return self._rows.population_names.get(PopulationName(name))

    async def names(self, name: PopulationName) -> list[PopulationName]:
        return sorted(one for one, owner in self._rows.population_names.items() if owner == name)

    async def rename(self, name: PopulationName, to: PopulationName) -> None:
        self._rows.require_population(name)
        if self._rows.population_names.get(to, name) != name:
            raise AlreadyExists(to)
        self._rows.population_names[to] = name
        self._rows.populations[name] = replace(self._rows.populations[name], current_name=to)

    async def mark_deleted(self, name: PopulationName, at: datetime) -> None:  # noqa: ARG002 - nobody asks
        rows = self._rows
        rows.require_population(name)
        tasks = [
            task.name
            for task in rows.tasks.values()
            if task.spec.population == name and not task.status.is_over
        ]
        rounds = [
            one.round.id
            for one in rows.rounds.values()
            if one.round.population == name and not one.round.is_over
        ]
        if tasks or rounds:
            raise PopulationInUse(sorted(tasks), sorted(rounds))
        for one in await self.names(name):
            del rows.population_names[one]
        rows.deleted_populations[name] = rows.populations.pop(name).average_key

    async def deleting(self) -> list[PopulationName]:
        with_rows = {population for population, _ in self._rows.versions}
        return sorted(self._rows.deleted_populations.keys() & with_rows)

    async def delete_rounds(self, name: PopulationName, limit: int) -> int:
        rows = self._rows
        next_rounds = sorted(id_ for id_, one in rows.rounds.items() if one.round.population == name)[:limit]
        for id_ in next_rounds:
            for assignment in [key for key in rows.assignments if key[0] == id_]:
                del rows.assignments[assignment]
            for partial in [key for key in rows.partials if key[0] == id_]:
                del rows.partials[partial]
            rows.verdicts.pop(id_, None)
            del rows.rounds[id_]
        return len(next_rounds)

    async def finish_deletion(self, name: PopulationName) -> tuple[str, ...]:
        rows = self._rows
        if name not in rows.deleted_populations:
            raise PopulationGone(name)
        keys = [rows.deleted_populations[name]]
        rows.deleted_populations[name] = None
        for task in [one for one in rows.tasks.values() if one.spec.population == name]:
            keys.append(task.optimizer_state_key)
            for key in [key for key in rows.arrivals if key[0] == task.name]:
                del rows.arrivals[key]
            rows.deleted_tasks.add(task.name)
            del rows.tasks[task.name]
        for version in [one for one in rows.versions.values() if one.population == name]:
            keys += version.blob_keys
            del rows.versions[version.population, version.version]
        return tuple(key for key in keys if key is not None)

    async def get(self, name: PopulationName) -> PopulationRecord | None:
        return self._rows.populations.get(name)

    async def all(self) -> list[PopulationRecord]:
        return [self._rows.populations[name] for name in sorted(self._rows.populations)]

    async def version(self, name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        return self._rows.versions.get((name, version))

    async def versions(self) -> list[VersionRecord]:
        here = (key for key in self._rows.versions if key[0] in self._rows.populations)
        return [self._rows.versions[key] for key in sorted(here)]

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
