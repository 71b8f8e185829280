"""Erased personal models are scrubbed from the files; where a reader is in the way, again until they are."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.memory_store.store import MemoryStore

from keyflock_server.coordinator.erasure import ErasureTargets
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.identity.owners import Owner
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import Forgotten, HeadErased

EN, DE = PopulationName("en"), PopulationName("de")
ANN, BOB = Owner("ann"), Owner("bob")


@dataclass
class ScrubbedFiles:
    """An eraser over a store whose models and scrubs are scripted, on a clock that the test moves."""

    #: How many models each deletion finds, and whether each scrub succeeds.
    deleted: list[int] = field(default_factory=list)
    scrubbed: list[bool] = field(default_factory=list)
    events: list[object] = field(default_factory=list)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        store: Any = MemoryStore()
        store.personal_models = self
        self.eraser = PersonalModelEraser(store, lambda: self.now)
        self.eraser.on_freed = lambda: self.events.append("freed")
        self.eraser.on_erased = self.events.append

    async def delete(self, _population: PopulationName, _owners: object) -> int:
        return self.deleted.pop(0)

    async def scrub(self) -> bool:
        self.events.append("scrub")
        return self.scrubbed.pop(0)

    async def tick_after(self, seconds: float) -> int:
        """Return how often this pass scrubs."""
        self.now += timedelta(seconds=seconds)
        before = len(self.events)
        await self.eraser.tick()
        return len(self.events) - before


async def test_what_was_deleted_is_scrubbed_and_whoever_holds_it_is_told() -> None:
    files = ScrubbedFiles(deleted=[2], scrubbed=[True])

    erased = await files.eraser.erase(EN, [ANN, BOB])

    assert erased == HeadErased(heads=2, is_scrubbed=True)
    assert files.events == ["freed", ANN, BOB, "scrub"]
    assert await files.tick_after(60.0) == 0


async def test_where_nothing_was_stored_nothing_is_scrubbed_and_the_owner_is_told_all_the_same() -> None:
    files = ScrubbedFiles(deleted=[0])

    erased = await files.eraser.erase(EN, [ANN])

    assert erased == HeadErased(heads=0, is_scrubbed=True)
    assert files.events == [ANN]


async def test_a_scrub_that_a_reader_blocks_is_tried_again_every_five_seconds_until_it_is_done() -> None:
    files = ScrubbedFiles(deleted=[1, 0], scrubbed=[False, False, False, True])

    erased = await files.eraser.erase(EN, [ANN])
    nothing = await files.eraser.erase(EN, [BOB])  # which does not make it scrubbed
    tried = [await files.tick_after(seconds) for seconds in (0.0, 4.999, 0.001, 5.0, 5.0, 60.0)]

    assert (erased.is_scrubbed, nothing.is_scrubbed) == (False, True)
    assert tried == [1, 0, 1, 1, 0, 0]


async def test_what_was_overwritten_is_scrubbed_with_the_next_pass() -> None:
    files = ScrubbedFiles(scrubbed=[True])

    before = await files.tick_after(0.0)
    files.eraser.scrub_soon()

    assert (before, await files.tick_after(0.0), await files.tick_after(60.0)) == (0, 1, 0)


@pytest.mark.parametrize("at", range(4))
async def test_forget_me_says_that_all_is_scrubbed_only_if_all_of_it_is(at: int) -> None:
    """It erases in each population, before the devices and after them."""
    files = ScrubbedFiles(deleted=[1, 2, 3, 4], scrubbed=[number != at for number in range(4)])
    unused: Any = None
    endpoints = PersonalEndpoints(files.eraser, unused, unused, unused)
    targets = ErasureTargets(devices=(DeviceId("phone"),), owners={EN: (ANN,), DE: (BOB,)})

    async def forget_devices(devices: object) -> Forgotten:
        files.events.append(devices)
        return Forgotten(devices=1)

    forgotten = await endpoints.forget(targets, forget_devices)

    assert forgotten == Forgotten(devices=1, heads=10, is_scrubbed=False)
    assert [one for one in files.events if one != "freed"] == [
        *(ANN, "scrub", BOB, "scrub"),
        targets.devices,
        *(ANN, "scrub", BOB, "scrub"),
    ]
