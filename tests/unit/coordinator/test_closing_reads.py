"""Closing a round reads no blob that closing it has just written; after a crash it reads what it needs."""

from dataclasses import dataclass, field

import pytest
from tests.memory_store.blobs import MemoryBlobStore
from tests.unit.coordinator.harness import CoordinatorHarness
from tests.unit.coordinator.listed import listed_populations
from tests.unit.coordinator.test_average_release import AVERAGED, run_round


@dataclass
class Traffic:
    """The keys that were written and read."""

    written: set[str] = field(default_factory=set)
    read: list[str] = field(default_factory=list)


class CountingBlobStore(MemoryBlobStore):
    """Counts reads and writes by key."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    async def put(self, key: str, data: bytes) -> None:
        self.traffic.written.add(key)
        await super().put(key, data)

    async def get(self, key: str) -> bytes:
        self.traffic.read.append(key)
        return await super().get(key)


@pytest.mark.parametrize(
    "tables",
    [
        {"optimizer": 'name = "fedadam"', "release": AVERAGED},
        {"aggregation": "clip_norm_ratio = 3.0\nmax_norm_ratio = 100.0"},
    ],
    ids=["with an average", "with norm scales"],
)
async def test_what_a_step_has_written_is_not_read_by_the_next_one(tables: dict[str, str]) -> None:
    blobs = CountingBlobStore()
    harness = CoordinatorHarness(blobs=blobs)
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(**tables)
    await run_round(harness, 1.0)
    blobs.traffic = Traffic()

    await run_round(harness, 2.0)

    assert (await listed_populations(harness.coordinator))[0].model_version == 2
    # The partial aggregates are the flushes', which another process may have made.
    made = {key for key in blobs.traffic.written if not key.startswith("partials/")}
    assert {key.split("/")[0] for key in made} >= {"aggregates", "versions", "optimizers"}
    assert made & set(blobs.traffic.read) == set()
    await harness.coordinator.stop()
