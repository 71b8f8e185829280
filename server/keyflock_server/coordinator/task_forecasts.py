"""The forecast of a task says whom it would match and what it would cost; it writes nothing."""

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from keyflock_compression import SpecError, container_length, container_sizes, parse_spec
from keyflock_models.network.layout import ParamLayout
from keyflock_server.coordinator.cohort_preview import DeviceCounts, count_devices
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore, archived_detail
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.protocol.calls import REPORT_BODY_BYTES
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.operator.forecasts import (
    FillForecast,
    MatchingDevices,
    ServerForecast,
    TaskForecast,
    TrafficForecast,
    UploadBounds,
)
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.cohort import DeviceAttributes, matches, parse_cohort
from keyflock_server.rounds.eligibility import admits, may_take_slot
from keyflock_server.rounds.fill_forecast import fill_forecast
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.records import DeviceRecord, PopulationRecord

_FLOAT_BYTES: Final = 4
#: Sums that a process holds of an open round: the committed one, the pending one, and one being written.
_SUMS_IN_MEMORY: Final = 3
#: Sums on disk at once: the newest partial and the one that it replaces; or a partial and the aggregate.
_SUMS_ON_DISK: Final = 2
#: Vectors of the model's size in the state of each server optimiser.
_STATE_VECTORS: Final = {
    "fedavg": 0,
    "fedavgm": 1,
    "fedadagrad": 1,
    "fedadam": 2,
    "fedyogi": 2,
    "fedamsgrad": 3,
}
_UNKNOWN: Final = (
    "How many phones are idle, charging, unmetered, cool enough and have enough examples: it is not stored.",
    "How many phones drop out, and how long training takes: rounds of the task will show it.",
    "Which phones have a recent version, and download only a difference.",
    "Whether the versions will be better: that is what evaluate tasks are for.",
)


class TaskForecasts:
    """Says what a task would do, before it is created."""

    def __init__(self, deps: Dependencies, registry: TaskRegistry, models: ModelStore) -> None:
        self._deps = deps
        self._registry = registry
        self._models = models

    async def forecast(self, spec: TaskSpec) -> TaskForecast:
        """Return the forecast of a task that is valid by itself."""
        try:
            population = await self._models.population(await self._models.resolve(spec.population))
        except ApiError as error:
            return TaskForecast(is_accepted=False, problems=[], conflicts=[error.detail])
        spec = with_ids(spec, spec.name, population.name)
        layout = await self._models.report_layout(spec)
        problems, conflicts = codec_problems(spec, layout), await self._registry.conflicts(spec)
        if population.archived_at is not None:
            conflicts.append(archived_detail(population.shown_name))
        tasks = await self._deps.store.tasks.all([])
        slots = spec.round.slots + sum(
            one.spec.round.slots for one in tasks if one.spec.population == population.name
        )
        counts = await count_devices(self._deps, population.name, _fitting(spec, self._deps.clock()), slots)
        fill = fill_forecast(spec, counts.active_matching, counts.seen)
        return TaskForecast(
            is_accepted=not problems and not conflicts,
            problems=problems,
            conflicts=conflicts,
            devices=_devices(counts),
            fill=FillForecast(
                goal=spec.round.goal,
                minimum=spec.round.minimum_reports,
                deadline_s=spec.round.deadline_s,
                is_meeting=fill.is_meeting,
                counted_devices=counts.active_matching,
                slots_taken_s=fill.slots_taken_s,
                meaning=fill.meaning,
            ),
            traffic=None if problems else await self._traffic(spec, population, layout),
            server=await self._server(spec, population, layout),
            unknown=[*_UNKNOWN, *_unknown_of(spec)],
        )

    async def _traffic(
        self, spec: TaskSpec, population: PopulationRecord, layout: ParamLayout
    ) -> TrafficForecast:
        newest = await self._models.any_version(population.name, population.latest_version)
        uploads = [
            UploadBounds(table=table, min_bytes=length.min_bytes, max_bytes=length.max_bytes)
            for table, codec in spec.codecs.items()
            for length in [container_length(parse_spec(codec), layout)]
        ]
        known = [one.max_bytes for one in uploads if one.max_bytes is not None]
        slots = spec.round.slots
        return TrafficForecast(
            download_bytes=newest.download_bytes,
            uploads=uploads,
            assigned_phones=slots,
            round_download_bytes=slots * newest.download_bytes,
            round_upload_max_bytes=slots * max(known) if len(known) == len(uploads) else None,
        )

    async def _server(
        self, spec: TaskSpec, population: PopulationRecord, layout: ParamLayout
    ) -> ServerForecast:
        sum_bytes = _FLOAT_BYTES * layout.size
        kept_bytes = 0
        if spec.kind is TaskKind.TRAIN:
            newest = await self._models.any_version(population.name, population.latest_version)
            vectors = 1 + _STATE_VECTORS[spec.optimizer.name]
            kept_bytes = newest.download_bytes + vectors * sum_bytes
        return ServerForecast(
            memory_bytes=_SUMS_IN_MEMORY * sum_bytes,
            round_disk_bytes=_SUMS_ON_DISK * sum_bytes,
            kept_bytes=kept_bytes,
        )


def codec_problems(spec: TaskSpec, layout: ParamLayout) -> list[str]:
    """Return how the task's codecs do not fit the reports of its population's model."""
    problems = []
    for path, codec in spec.codecs.items():
        try:
            wanted = parse_spec(codec)
            container_sizes(wanted, layout)
        except SpecError as error:
            problems.append(f"{path}: {error}")
            continue
        if (min_bytes := container_length(wanted, layout).min_bytes) >= REPORT_BODY_BYTES:
            problems.append(f"{path}: a delta takes at least {min_bytes} bytes, more than a report may have.")
    return problems


def _fitting(spec: TaskSpec, now: datetime) -> Callable[[DeviceRecord], bool]:
    """Return what says whether a device fits a task by its row."""
    rules = spec.eligibility
    cohort = parse_cohort(rules.cohort) if rules.cohort else None
    highest = math.inf if rules.app_build_max is None else rules.app_build_max

    def fits(device: DeviceRecord) -> bool:
        if not rules.app_build_min <= device.app_build <= highest:
            return False
        if not admits(rules.locales, device.locale):
            return False
        if not may_take_slot(rules, device.last_contributed_at, device.quarantined_until, now):
            return False
        attributes = DeviceAttributes(device.app_build, device.locale, device.tier, device.tags)
        return cohort is None or matches(cohort, attributes)

    return fits


def _devices(counts: DeviceCounts) -> MatchingDevices:
    return MatchingDevices(
        enrolled=counts.enrolled,
        matching=counts.matching,
        active=counts.active,
        active_matching=counts.active_matching,
    )


def _unknown_of(spec: TaskSpec) -> Iterator[str]:
    if spec.kind is not TaskKind.TRAIN:
        yield f"How many builds of the app know tasks of kind {spec.kind}: phones tell it when they check in."
    if any(getattr(spec.eligibility.device, name) for name in spec.eligibility.device.__struct_fields__):
        yield "How many phones fit [eligibility.device]: only the phone can check it."
    if spec.eligibility.max_participations is not None:
        yield "How many phones have reached eligibility.max_participations."
