"""Populations and model versions in memory."""

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.numbered_names import base_name, by_number
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.discarding import discarded_by_rollback
from keyflock_server.rounds.round import advance
from keyflock_server.storage.audit_documents import population_document, version_document
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, PopulationInUse, Superseded
from keyflock_server.storage.interfaces.populations import PopulationChanges, RollbackResult
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.release_rows import first_release, release_after_rollback, served_versions


class MemoryPopulationRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, population: PopulationRecord, version: VersionRecord, *, audit: AuditContext) -> None:
        names = {population.name, population.shown_name}
        if names & self._rows.population_names.keys() or population.name in self._rows.deleted_populations:
            raise AlreadyExists(population.name)
        with self._audited(population.name, audit):
            self._rows.population_names.update(dict.fromkeys(names, population.name))
            self._rows.populations[population.name] = population
            self._rows.versions[population.name, version.version] = version
            first = first_release(population.name, version.version, population.created_at, audit)
            self._rows.append_release(first, audit)

    async def change(
        self,
        name: PopulationName,
        changes: PopulationChanges,
        *,
        audit: AuditContext,
    ) -> PopulationRecord:
        self._rows.require_population(name)
        with self._audited(name, audit):
            before = self._rows.populations[name]
            after = replace(before, **changes)
            if after == before:
                return before
            self._rows.populations[name] = after = replace(after, revision=before.revision + 1)
            return after

    async def ids_of(self, name: PopulationName) -> list[PopulationName]:
        every = {*self._rows.populations, *self._rows.deleted_populations}
        return by_number(id_ for id_ in every if base_name(id_) == name)

    async def resolve(self, name: str) -> PopulationName | None:
        return self._rows.population_names.get(PopulationName(name))

    async def names(self, name: PopulationName) -> list[PopulationName]:
        return sorted(one for one, owner in self._rows.population_names.items() if owner == name)

    async def rename(self, name: PopulationName, to: PopulationName, *, audit: AuditContext) -> None:
        self._rows.require_population(name)
        if self._rows.population_names.get(to, name) != name:
            raise AlreadyExists(to)
        with self._audited(name, audit):
            self._rows.population_names[to] = name
            before = self._rows.populations[name]
            if before.shown_name != to:
                after = replace(before, current_name=to, revision=before.revision + 1)
                self._rows.populations[name] = after

    async def mark_deleted(
        self,
        name: PopulationName,
        at: datetime,  # noqa: ARG002 - nobody asks
        *,
        audit: AuditContext,
    ) -> None:
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
        names = await self.names(name)
        with self._audited(name, audit):
            for one in names:
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
            rows.causes.pop(id_, None)
            rows.evaluations.pop(id_, None)
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
        rows.releases.pop(name, None)
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

    async def set_pinned(
        self, name: PopulationName, version: ModelVersion, pinned_at: datetime | None, *, audit: AuditContext
    ) -> VersionRecord | None:
        known = self._rows.versions.get((name, version))
        if known is None:
            return None

        def document() -> Document:
            return version_document(self._rows.versions[name, version])

        with self._rows.log.audited(audit, SubjectKind.VERSION, f"{name}/{version}", document):
            if (known.pinned_at is None) == (pinned_at is None):
                return known
            self._rows.versions[name, version] = after = replace(known, pinned_at=pinned_at)
            return after

    async def version_page(
        self, name: PopulationName, before: ModelVersion | None, limit: int
    ) -> list[VersionRecord]:
        mine = [one for one in self._rows.versions.values() if one.population == name]
        mine.sort(key=lambda one: one.version, reverse=True)
        return [one for one in mine if before is None or one.version < before][:limit]

    async def roll_back(
        self,
        version: VersionRecord,
        latest: ModelVersion,
        reason: str,
        *,
        audit: AuditContext,
    ) -> RollbackResult:
        with self._audited(version.population, audit):
            return self._roll_back(version, latest, reason, audit)

    def _is_served(self, name: PopulationName, version: ModelVersion) -> bool:
        known = self._rows.versions.get((name, version))
        return known is not None and known.withdrawn_at is None

    def _audited(self, name: PopulationName, audit: AuditContext) -> AbstractContextManager[None]:
        def document() -> Document | None:
            known = self._rows.populations.get(name)
            if known is None:
                return None
            names = [one for one, owner in self._rows.population_names.items() if owner == name]
            its_versions = (one for one in self._rows.versions.values() if one.population == name)
            withdrawn = [one.version for one in its_versions if one.withdrawn_at is not None]
            return population_document(known, names, withdrawn)

        return self._rows.log.audited(audit, SubjectKind.POPULATION, name, document)

    def _roll_back(
        self, version: VersionRecord, latest: ModelVersion, reason: str, audit: AuditContext
    ) -> RollbackResult:
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
            population,
            latest_version=version.version,
            average_key=None,
            anchor_loss_chosen=chosen,
            revision=population.revision + 1,
        )
        history = self._rows.releases.get(name, [])[::-1]
        standing = [one for one in served_versions(history) if one <= to and self._is_served(name, one)]
        released = standing[0] if standing else version.version
        new = history and release_after_rollback(history[0], to, released, at, reason, audit)
        if new:
            self._rows.append_release(new, audit)
        keys = [] if population.average_key is None else [population.average_key]
        for task_name, task in self._rows.tasks.items():
            if task.spec.population == name and task.optimizer_state_key is not None:
                keys.append(task.optimizer_state_key)
                self._rows.tasks[task_name] = replace(task, optimizer_state_key=None)
        return RollbackResult(tuple(discarded), tuple(keys))
