"""Pages of rows for operators in SQL, each found by its place in an index."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.funnel import Sessions
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.interfaces.listings import (
    DeviceFilter,
    RoundFilter,
    RoundPlace,
    TaskFilter,
    TaskPlace,
)
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord
from keyflock_server.storage.sql.population_rows import IS_THERE, POPULATION_COLUMNS, population_record
from keyflock_server.storage.sql.round_rows import round_record
from keyflock_server.storage.sql.tasks import task_record
from keyflock_server.storage.tables import (
    assignments,
    devices,
    personal_models,
    population_names,
    populations,
    round_verdicts,
    rounds,
    tasks,
)


class SqlListingRepository:
    """Implements ``ListingRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine) -> None:
        self._reader = reader

    async def populations(
        self, after: PopulationName | None, limit: int, *, is_archived: bool | None = None
    ) -> list[PopulationRecord]:
        """Return populations that are there, ordered by id."""
        query = select(*POPULATION_COLUMNS).where(IS_THERE, *_is_set(populations.c.archived_at, is_archived))
        if after is not None:
            query = query.where(populations.c.name > after)
        return [population_record(row) for row in await self._all(query.order_by(populations.c.name), limit)]

    async def tasks(self, wanted: TaskFilter, after: TaskPlace | None, limit: int) -> list[TaskRecord]:
        """Return tasks of populations that are there, oldest first."""
        query = (
            select(tasks)
            .join(populations)
            .where(
                IS_THERE,
                *_equal((tasks.c.population, wanted.population), (tasks.c.status, wanted.status)),
                *_is_set(tasks.c.archived_at, wanted.is_archived),
                *self._is_of_kind(wanted.kind),
            )
            .order_by(tasks.c.created_at, tasks.c.name)
        )
        if after is not None:
            at, name = after
            same = (tasks.c.created_at == at) & (tasks.c.name > name)
            query = query.where(tasks.c.created_at >= at, or_(tasks.c.created_at > at, same))
        return [task_record(row) for row in await self._all(query, limit)]

    async def rounds(self, wanted: RoundFilter, after: RoundPlace | None, limit: int) -> list[RoundRecord]:
        """Return rounds of populations that are there, newest first."""
        query = (
            select(rounds)
            .join(populations, populations.c.name == rounds.c.population)
            .where(
                IS_THERE,
                *_equal(
                    (rounds.c.population, wanted.population),
                    (rounds.c.task, wanted.task),
                    (rounds.c.phase, wanted.phase),
                ),
            )
            .order_by(rounds.c.opened_at.desc(), rounds.c.id.desc())
        )
        if after is not None:
            at, id_ = after
            same = (rounds.c.opened_at == at) & (rounds.c.id < id_)
            query = query.where(rounds.c.opened_at <= at, or_(rounds.c.opened_at < at, same))
        return [round_record(row) for row in await self._all(query, limit)]

    async def devices(self, wanted: DeviceFilter, after: DeviceId | None, limit: int) -> list[DeviceRecord]:
        """Return devices, ordered by id."""
        query = select(devices).where(
            devices.c.population == wanted.population,
            *_equal((devices.c.tier, wanted.tier), (devices.c.locale, wanted.locale)),
            *_quarantined(wanted.is_quarantined, wanted.now),
        )
        if wanted.app_build_min is not None:
            query = query.where(devices.c.app_build >= wanted.app_build_min)
        if wanted.app_build_max is not None:
            query = query.where(devices.c.app_build <= wanted.app_build_max)
        if after is not None:
            query = query.where(devices.c.id > after)
        rows = await self._all(query.order_by(devices.c.id), limit)
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def phases(self, tasks: Collection[TaskName]) -> Mapping[TaskName, Mapping[Phase, int]]:
        """Count the rounds of each task by phase."""
        query = select(rounds.c.task, rounds.c.phase, func.count()).where(rounds.c.task.in_(tasks))
        found: dict[TaskName, dict[Phase, int]] = {}
        for task, phase, count in await self._all(query.group_by(rounds.c.task, rounds.c.phase)):
            found.setdefault(TaskName(task), {})[Phase(phase)] = count
        return found

    async def held_rounds(self, tasks: Collection[TaskName]) -> Mapping[TaskName, RoundId]:
        """Return the held round of each task that has one."""
        query = select(rounds.c.task, rounds.c.id).where(
            rounds.c.phase == Phase.HELD, rounds.c.task.in_(tasks)
        )
        return {TaskName(task): RoundId(id_) for task, id_ in await self._all(query)}

    async def sessions(self, round_id: RoundId) -> list[Sessions]:
        """Count the round's assignments by state and session shape."""
        count = func.count().label("n")
        query = (
            select(assignments.c.state, assignments.c.session_shape, count)
            .where(assignments.c.round_id == round_id)
            .group_by(assignments.c.state, assignments.c.session_shape)
            .order_by(count.desc(), assignments.c.state, assignments.c.session_shape)
        )
        return [Sessions(state, shape, number) for state, shape, number in await self._all(query)]

    async def report_times(self, round_id: RoundId, limit: int) -> list[float]:
        """Return the seconds from assignment to counted report, the shortest first."""
        query = select(assignments.c.assigned_at, assignments.c.counted_at).where(
            assignments.c.round_id == round_id, assignments.c.counted_at.is_not(None)
        )
        rows = await self._all(query, limit)
        return sorted((counted_at - assigned_at).total_seconds() for assigned_at, counted_at in rows)

    async def personal_models(self, population: PopulationName) -> tuple[int, int]:
        """Count a population's stored personal models, and their bytes."""
        sizes = func.coalesce(func.sum(personal_models.c.size_bytes), 0)
        query = select(func.count(), sizes).where(personal_models.c.population == population)
        ((count, size_bytes),) = await self._all(query)
        return count, size_bytes

    async def homes(self, names: Collection[PopulationName]) -> Mapping[PopulationName, PopulationRecord]:
        """Return those of these populations that are there, by id."""
        query = select(*POPULATION_COLUMNS).where(IS_THERE, populations.c.name.in_(names))
        return {record.name: record for record in map(population_record, await self._all(query))}

    async def devices_enrolled(self, names: Collection[PopulationName]) -> Mapping[PopulationName, int]:
        """Count the devices of each population."""
        home = devices.c.population
        rows = await self._all(select(home, func.count()).where(home.in_(names)).group_by(home))
        return {PopulationName(name): count for name, count in rows}

    async def names(
        self, populations: Collection[PopulationName]
    ) -> Mapping[PopulationName, list[PopulationName]]:
        """Return all names that resolve to each population, in order."""
        mine = population_names.c.population.in_(populations)
        query = select(population_names.c.population, population_names.c.name).where(mine)
        found: dict[PopulationName, list[PopulationName]] = {}
        for population, name in await self._all(query.order_by(population_names.c.name)):
            found.setdefault(PopulationName(population), []).append(PopulationName(name))
        return found

    async def used_ids(self, tasks: Collection[TaskName]) -> frozenset[TaskName]:
        """Return those of these ids that tasks have."""
        return frozenset(TaskName(row.name) for row in await self._all(_with_ids(tasks)))

    async def verdicts(self, rounds: Collection[RoundId]) -> Mapping[RoundId, Mapping[str, int]]:
        """Return the counts of verdicts of these rounds."""
        query = select(round_verdicts).where(round_verdicts.c.round_id.in_(rounds))
        found: dict[RoundId, dict[str, int]] = {}
        for round_id, verdict, count in await self._all(query.order_by(round_verdicts.c.verdict)):
            found.setdefault(RoundId(round_id), {})[verdict] = count
        return found

    def _is_of_kind(self, kind: TaskKind | None) -> list[ColumnElement[bool]]:
        """Return the conditions of tasks of this kind, which only the stored JSON says.

        Quotes within a JSON text are escaped, so what is looked for is a field and its value.
        """
        if kind is None:
            return []
        if kind is TaskKind.TRAIN:  # tasks of early releases do not say so
            others = (one for one in TaskKind if one is not TaskKind.TRAIN)
            return [not_(*self._is_of_kind(one)) for one in others]
        field = f'"kind":"{kind}"'.encode()
        if self._reader.dialect.name == "sqlite":
            return [func.instr(tasks.c.spec_json, field) > 0]
        return [tasks.c.spec_json.op("LIKE", is_comparison=True)(b"%" + field + b"%")]

    async def _all(self, query: Select[Any], limit: int | None = None) -> Sequence[Any]:
        async with self._reader.connect() as connection:
            found: Sequence[Any] = (await connection.execute(query.limit(limit))).all()
        return found


def _with_ids(names: Collection[TaskName]) -> Select[Any]:
    return select(tasks.c.name).where(tasks.c.name.in_(names))


def _equal(*pairs: tuple[Column[Any], object]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _is_set(column: Column[Any], wanted: bool | None) -> list[ColumnElement[bool]]:
    if wanted is None:
        return []
    return [column.is_not(None) if wanted else column.is_(None)]


def _quarantined(wanted: bool | None, now: datetime) -> list[ColumnElement[bool]]:
    until = devices.c.quarantined_until
    if wanted is None:
        return []
    return [until > now] if wanted else [or_(until.is_(None), until <= now)]
