"""The drills that need no process of their own begin in a founded town."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.coordinator.town import Town


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """One population, version 0 all zeros."""
    town = Town()
    await town.coordinator.start()
    await town.found()
    yield town
    await town.coordinator.stop()
