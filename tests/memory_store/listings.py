"""Pages of rows for operators in memory."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
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

T = TypeVar("T")


class MemoryListingRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def populations(
        self, after: PopulationName | None, limit: int, *, is_archived: bool | None = None
    ) -> list[PopulationRecord]:
        found = (one for one in self._rows.populations.values() if _is(one.archived_at, is_archived))
        return _page(found, lambda one: one.name, after, limit)

    async def tasks(self, wanted: TaskFilter, after: TaskPlace | None, limit: int) -> list[TaskRecord]:
        found = (
            one
            for one in self._rows.tasks.values()
            if one.spec.population in self._rows.populations
            and wanted.population in (None, one.spec.population)
            and wanted.status in (None, one.status)
            and wanted.kind in (None, one.spec.kind)
            and _is(one.archived_at, wanted.is_archived)
        )
        return _page(found, lambda one: TaskPlace(one.created_at, one.name), after, limit)

    async def rounds(self, wanted: RoundFilter, after: RoundPlace | None, limit: int) -> list[RoundRecord]:
        found = (
            one
            for one in self._rows.rounds.values()
            if one.round.population in self._rows.populations
            and wanted.population in (None, one.round.population)
            and wanted.task in (None, one.round.task)
            and wanted.phase in (None, one.round.phase)
        )
        place = lambda one: RoundPlace(one.round.opened_at, one.round.id)  # noqa: E731
        return _page(found, place, after, limit, is_descending=True)

    async def devices(self, wanted: DeviceFilter, after: DeviceId | None, limit: int) -> list[DeviceRecord]:
        return _page(
            (one for one in self._rows.devices.values() if _is_wanted(one, wanted)),
            lambda one: one.id,
            after,
            limit,
        )

    async def phases(self, tasks: Collection[TaskName]) -> Mapping[TaskName, Mapping[Phase, int]]:
        found: dict[TaskName, Counter[Phase]] = {}
        for one in self._rows.rounds.values():
            if one.round.task in tasks:
                found.setdefault(one.round.task, Counter())[one.round.phase] += 1
        return found

    async def held_rounds(self, tasks: Collection[TaskName]) -> Mapping[TaskName, RoundId]:
        return {
            one.round.task: one.round.id
            for one in self._rows.rounds.values()
            if one.round.task in tasks and one.round.phase is Phase.HELD
        }

    async def sessions(self, round_id: RoundId) -> list[Sessions]:
        found = Counter(
            (one.state.value, one.session_shape)
            for one in self._rows.assignments.values()
            if one.round_id == round_id
        )
        ordered = sorted(found.items(), key=lambda one: (-one[1], *one[0]))
        return [Sessions(state, shape, count) for (state, shape), count in ordered]

    async def report_times(self, round_id: RoundId, limit: int) -> list[float]:
        found = [
            (one.counted_at - one.assigned_at).total_seconds()
            for one in self._rows.assignments.values()
            if one.round_id == round_id and one.counted_at is not None
        ]
        return sorted(found[:limit])

    async def personal_models(self, population: PopulationName) -> tuple[int, int]:
        found = [
            len(one.sealed) for one in self._rows.personal_models.values() if one.population == population
        ]
        return len(found), sum(found)

    async def homes(self, names: Collection[PopulationName]) -> Mapping[PopulationName, PopulationRecord]:
        return {name: self._rows.populations[name] for name in names if name in self._rows.populations}

    async def devices_enrolled(self, names: Collection[PopulationName]) -> Mapping[PopulationName, int]:
        return Counter(one.population for one in self._rows.devices.values() if one.population in names)

    async def names(
        self, populations: Collection[PopulationName]
    ) -> Mapping[PopulationName, list[PopulationName]]:
        every = sorted(self._rows.population_names.items())
        return {one: [name for name, owner in every if owner == one] for one in populations}

    async def used_ids(self, tasks: Collection[TaskName]) -> frozenset[TaskName]:
        return frozenset({*self._rows.tasks, *self._rows.deleted_tasks} & set(tasks))

    async def verdicts(self, rounds: Collection[RoundId]) -> Mapping[RoundId, Mapping[str, int]]:
        return {one: dict(counts) for one, counts in self._rows.verdicts.items() if one in rounds}


def _page(
    found: Iterable[T],
    place: Callable[[T], Any],
    after: object | None,
    limit: int,
    *,
    is_descending: bool = False,
) -> list[T]:
    ordered = sorted(found, key=place, reverse=is_descending)
    if after is not None:
        ordered = [one for one in ordered if (place(one) < after if is_descending else place(one) > after)]
    return ordered[:limit]


def _is(value: object | None, wanted: bool | None) -> bool:
    return wanted is None or (value is not None) is wanted


def _is_wanted(one: DeviceRecord, wanted: DeviceFilter) -> bool:
    is_quarantined = one.quarantined_until is not None and one.quarantined_until > wanted.now
    return (
        one.population == wanted.population
        and wanted.is_quarantined in (None, is_quarantined)
        and wanted.tier in (None, one.tier)
        and wanted.locale in (None, one.locale)
        and (wanted.app_build_min is None or one.app_build >= wanted.app_build_min)
        and (wanted.app_build_max is None or one.app_build <= wanted.app_build_max)
    )
