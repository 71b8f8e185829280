"""The coordinator's tests begin in a founded town: one population, version 0 all zeros."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.coordinator.town import Town


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town()
    await town.coordinator.start()
    await town.found()
    yield town
    await town.coordinator.stop()
