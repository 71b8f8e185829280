"""How many devices an expression fits, before a task is created with it."""

import asyncio
from datetime import timedelta
from typing import Final

from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.operator import CohortPreview
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.cohort import CohortError, DeviceAttributes, matches, parse_cohort, to_text

#: Rows in memory at once.
PAGE_ROWS: Final = 1_000
_DAY: Final = timedelta(days=1)


async def preview_cohort(world: Surroundings, population: PopulationName, expression: str) -> CohortPreview:
    """Counts over a population's devices; a page of them is in memory at once.

    Raises:
        Refused: ``invalid_cohort``; the detail says where the expression is wrong.
    """
    try:
        cohort = parse_cohort(expression)
    except CohortError as error:
        raise Refused(ProblemCode.INVALID_COHORT, str(error)) from None
    active_since = world.clock() - _DAY
    enrolled = matching = active = active_matching = 0
    after: DeviceId | None = None
    while page := await world.store.devices.page(population, after, PAGE_ROWS):
        for device in page:
            fits = matches(
                cohort, DeviceAttributes(device.app_build, device.locale, device.tier, device.tags)
            )
            is_active = device.last_seen_at >= active_since
            enrolled += 1
            matching += fits
            active += is_active
            active_matching += fits and is_active
        after = page[-1].id
        await asyncio.sleep(0)  # phones are answered between two pages
    return CohortPreview(
        population=population,
        cohort=to_text(cohort),
        enrolled=enrolled,
        matching=matching,
        active=active,
        active_matching=active_matching,
    )
