"""The drills that need no process of their own begin in a founded harness."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness


@pytest.fixture
async def harness() -> AsyncIterator[CoordinatorHarness]:
    """One population, version 0 all zeros."""
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population()
    yield harness
    await harness.coordinator.stop()
