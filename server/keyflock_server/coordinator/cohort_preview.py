"""The cohort preview counts the devices that an expression or a task fits, before a task is created."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.operator.populations import CohortPreview
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.availability import ActiveDevices, counted_devices
from keyflock_server.rounds.cohort import CohortSyntaxError, DeviceAttributes, matches, parse_cohort, to_text
from keyflock_server.storage.records import DeviceRecord

#: Maximum number of rows in memory at once.
PAGE_ROWS: Final = 1_000
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """Numbers of a population's devices."""

    #: Enrolled devices, and how many of them fit.
    enrolled: int
    matching: int
    #: Devices that checked in within a day, as pacing counts them, and how many of them fit.
    active: int
    active_matching: int
    #: All devices that checked in within a day.
    seen: int


async def preview_cohort(
    deps: Dependencies, population: PopulationName, expression: str, slots: int
) -> CohortPreview:
    """Count a population's devices that match an expression.

    Args:
        deps: The store and the clock.
        population: The population whose devices are counted.
        expression: The cohort expression that they must match.
        slots: Slots of all the population's tasks, as in ``count_devices``.
    Raises:
        ApiError: ``invalid_cohort``; the detail says where the expression is wrong.
    """
    try:
        cohort = parse_cohort(expression)
    except CohortSyntaxError as error:
        raise ApiError(ProblemCode.INVALID_COHORT, str(error)) from None

    def fits(device: DeviceRecord) -> bool:
        return matches(cohort, DeviceAttributes(device.app_build, device.locale, device.tier, device.tags))

    counts = await count_devices(deps, population, fits, slots)
    return CohortPreview(
        population=population,
        cohort=to_text(cohort),
        enrolled=counts.enrolled,
        matching=counts.matching,
        active=counts.active,
        active_matching=counts.active_matching,
    )


async def count_devices(
    deps: Dependencies, population: PopulationName, fits: Callable[[DeviceRecord], bool], slots: int
) -> DeviceCounts:
    """Count a population's devices; one page of them is in memory at once.

    Args:
        deps: The store and the clock.
        population: The population whose devices are counted.
        fits: Says whether a device is counted as matching.
        slots: Slots of all the population's tasks: of devices that never reported, no more
            are counted as active than pacing would count. 0, where there is no task yet: all are.
    """
    active_since = deps.clock() - _DAY
    enrolled = matching = 0
    active: Counter[bool] = Counter()
    active_matching: Counter[bool] = Counter()
    after: DeviceId | None = None
    while page := await deps.store.devices.page(population, after, PAGE_ROWS):
        for device in page:
            is_fit = fits(device)
            is_active = device.last_seen_at >= active_since and device.last_seen_at > device.enrolled_at
            is_proven = device.last_contributed_at is not None
            enrolled += 1
            matching += is_fit
            active[is_proven] += is_active
            active_matching[is_proven] += is_fit and is_active
        after = page[-1].id
        await asyncio.sleep(0)  # phones are answered between two pages
    return DeviceCounts(
        enrolled=enrolled,
        matching=matching,
        active=_active_devices(active, slots),
        active_matching=_active_devices(active_matching, slots),
        seen=active.total(),
    )


def _active_devices(active: Counter[bool], slots: int) -> int:
    """Return the active devices as pacing counts them, given their numbers by whether they are proven."""
    if slots == 0:
        return active.total()
    return counted_devices(ActiveDevices(proven=active[True], unproven=active[False]), slots)
