"""Lists for operators: a page of views at a time, with the place where the next one begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.coordinator.task_state import waiting_reason
from keyflock_server.coordinator.views import device_view, population_view, round_view
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.operator.devices import DeviceQuery, DeviceView
from keyflock_server.protocol.operator.populations import PopulationView
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator.tasks import TaskView
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.interfaces.listings import (
    DeviceFilter,
    RoundFilter,
    RoundPlace,
    TaskFilter,
    TaskPlace,
)
from keyflock_server.storage.records import RoundRecord

R = TypeVar("R")
V = TypeVar("V")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Page(Generic[V, K]):
    """A part of a list."""

    items: list[V]
    #: The place behind which the next page begins; None where there is none.
    next: K | None


class OperatorLists:
    """Shows operators what there is, a page at a time."""

    def __init__(
        self, deps: Dependencies, registry: TaskRegistry, models: ModelStore, tasks: TaskService
    ) -> None:
        self._tasks = tasks
        self._deps = deps
        self._registry = registry
        self._models = models
        self._addresses = TaskAddresses(deps)

    async def populations(
        self, after: PopulationName | None, limit: int, *, is_archived: bool | None
    ) -> Page[PopulationView, PopulationName]:
        """Return populations, ordered by id."""
        listings = self._deps.store.listings
        rows = await listings.populations(after, limit + 1, is_archived=is_archived)
        ids = [row.name for row in rows[:limit]]
        devices, names = await listings.devices_enrolled(ids), await listings.names(ids)
        views = [
            population_view(row, devices.get(row.name, 0), names.get(row.name, [])) for row in rows[:limit]
        ]
        return Page(views, place_after(rows, limit, lambda row: row.name))

    async def tasks(
        self,
        after: TaskPlace | None,
        limit: int,
        *,
        population: str | None = None,
        status: TaskStatus | None = None,
        kind: TaskKind | None = None,
        is_archived: bool | None = None,
    ) -> Page[TaskView, TaskPlace]:
        """Return tasks, oldest first."""
        id_ = None if population is None else await self._models.resolve(population)
        wanted = TaskFilter(population=id_, status=status, kind=kind, is_archived=is_archived)
        listings = self._deps.store.listings
        rows = await listings.tasks(wanted, after, limit + 1)
        names = [row.name for row in rows[:limit]]
        phases, held = await listings.phases(names), await listings.held_rounds(names)
        homes = await listings.homes({row.spec.population for row in rows[:limit]})
        addresses = await self._addresses.addresses(names)
        views = []
        for row in rows[:limit]:
            home = homes.get(row.spec.population)
            if home is None:  # it was deleted since
                continue
            view = await self._tasks.view(
                row, home, phases.get(row.name, {}), held.get(row.name), addresses[row.name]
            )
            views.append(view)
        return Page(views, place_after(rows, limit, lambda row: TaskPlace(row.created_at, row.name)))

    async def rounds(
        self,
        after: RoundPlace | None,
        limit: int,
        *,
        population: str | None = None,
        task: str | None = None,
        phase: Phase | None = None,
    ) -> Page[RoundView, RoundPlace]:
        """Return rounds, newest first."""
        wanted = RoundFilter(
            population=None if population is None else await self._models.resolve(population),
            task=None if task is None else await self._addresses.find(task),
            phase=phase,
        )
        listings = self._deps.store.listings
        rows = await listings.rounds(wanted, after, limit + 1)
        verdicts = await listings.verdicts([row.round.id for row in rows[:limit]])
        homes = await listings.homes({row.round.population for row in rows[:limit]})
        addresses = await self._addresses.addresses({row.round.task for row in rows[:limit]})
        views = []
        for row in rows[:limit]:
            home = homes.get(row.round.population)
            if home is None:  # it was deleted since
                continue
            state = self._registry.known(row.round.task)
            view = round_view(
                row,
                home,
                verdicts.get(row.round.id, {}),
                "" if state is None else state.last_error,
                waiting_reason(state, row.round.id),
                task=addresses[row.round.task],
            )
            views.append(view)
        return Page(
            views, place_after(rows, limit, lambda row: RoundPlace(row.round.opened_at, row.round.id))
        )

    async def devices(
        self, population: str, after: DeviceId | None, limit: int, query: DeviceQuery
    ) -> Page[DeviceView, DeviceId]:
        """Return devices of a population, ordered by id; raises ``population_unknown``."""
        home = await self._models.population(await self._models.resolve(population))
        now = self._deps.clock()
        wanted = DeviceFilter(
            population=home.name,
            is_quarantined=query.quarantined,
            now=now,
            tier=query.tier,
            locale=query.locale,
            app_build_min=query.app_build_min,
            app_build_max=query.app_build_max,
        )
        rows = await self._deps.store.listings.devices(wanted, after, limit + 1)
        views = [device_view(row, home.shown_name, now) for row in rows[:limit]]
        return Page(views, place_after(rows, limit, lambda row: row.id))


def _round_place(row: RoundRecord) -> RoundPlace:
    return RoundPlace(row.round.opened_at, row.round.id)


def place_after(rows: Sequence[R], limit: int, place: Callable[[R], K]) -> K | None:
    """Return the place of a page's last row if one more row was found behind it."""
    return place(rows[limit - 1]) if len(rows) > limit else None
