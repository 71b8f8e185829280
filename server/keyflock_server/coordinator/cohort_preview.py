"""The cohort preview counts the devices that an expression fits, before a task is created with it."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.operator.populations import CohortPreview
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.availability import ActiveDevices, counted_devices
from keyflock_server.rounds.cohort import CohortSyntaxError, DeviceAttributes, matches, parse_cohort, to_text

#: Maximum number of rows in memory at once.
PAGE_ROWS: Final = 1_000
_DAY: Final = timedelta(days=1)


async def preview_cohort(
    deps: Dependencies, population: PopulationName, expression: str, slots: int
) -> CohortPreview:
    """Count a population's devices that match; one page of them is in memory at once.

    Args:
        deps: The store and the clock.
        population: The population whose devices are counted.
        expression: The cohort expression that they must match.
        slots: Slots of all the population's tasks: of devices that never reported, no more
            are counted as active than pacing would count. 0, where there is no task yet: all are.
    Raises:
        ApiError: ``invalid_cohort``; the detail says where the expression is wrong.
    """
    try:
        cohort = parse_cohort(expression)
    except CohortSyntaxError as error:
        raise ApiError(ProblemCode.INVALID_COHORT, str(error)) from None
    active_since = deps.clock() - _DAY
    enrolled = matching = 0
    active: Counter[bool] = Counter()
    active_matching: Counter[bool] = Counter()
    after: DeviceId | None = None
    while page := await deps.store.devices.page(population, after, PAGE_ROWS):
        for device in page:
            fits = matches(
                cohort, DeviceAttributes(device.app_build, device.locale, device.tier, device.tags)
            )
            is_active = device.last_seen_at >= active_since and device.last_seen_at > device.enrolled_at
            is_proven = device.last_contributed_at is not None
            enrolled += 1
            matching += fits
            active[is_proven] += is_active
            active_matching[is_proven] += fits and is_active
        after = page[-1].id
        await asyncio.sleep(0)  # phones are answered between two pages
    return CohortPreview(
        population=population,
        cohort=to_text(cohort),
        enrolled=enrolled,
        matching=matching,
        active=_active_devices(active, slots),
        active_matching=_active_devices(active_matching, slots),
    )


def _active_devices(active: Counter[bool], slots: int) -> int:
    """Return the active devices as pacing counts them, given their numbers by whether they are proven."""
    if slots == 0:
        return active.total()
    return counted_devices(ActiveDevices(proven=active[True], unproven=active[False]), slots)
