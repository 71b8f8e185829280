"""The coordinator's tests begin with one population, whose version 0 is all zeros."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness


@pytest.fixture
async def harness() -> AsyncIterator[CoordinatorHarness]:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population()
    yield harness
    await harness.coordinator.stop()
