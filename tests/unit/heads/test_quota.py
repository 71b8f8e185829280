"""Stored personal models together take what is set aside for them, and no more."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import EN

from keyflock_server.heads.quota import StoredModelQuota
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.memory import MemoryStore
from keyflock_server.telemetry.metrics import Metrics

pytestmark = pytest.mark.fault("D15")


@dataclass
class Shelf:
    """A store of heads of one letter each, a quota of 1,000 bytes, and a clock."""

    store: MemoryStore
    quota: StoredModelQuota
    metrics: Metrics
    now: datetime

    async def put(self, owner: str, size_bytes: int) -> None:
        before = await self.store.heads.size(EN, owner * 64)
        async with self.quota.room_for(size_bytes, before):
            await self.store.heads.put(replace(HEAD, owner=owner * 64, sealed=bytes(size_bytes)), None)

    async def is_taken(self, owner: str, size_bytes: int) -> bool:
        try:
            await self.put(owner, size_bytes)
        except Refused as refused:
            return refused.code is not ProblemCode.QUOTA_EXCEEDED
        return True


@pytest.fixture
async def shelf() -> Shelf:
    made = Shelf(MemoryStore(), None, Metrics(), datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]  # below
    made.quota = StoredModelQuota(made.store, 1_000, lambda: made.now, made.metrics)
    await made.quota.start()
    return made


async def test_what_would_go_beyond_is_refused_and_what_is_stored_stays(shelf: Shelf) -> None:
    taken = [await shelf.is_taken("a", 600), await shelf.is_taken("b", 400), await shelf.is_taken("c", 1)]

    assert taken == [True, True, False]
    assert not await shelf.is_taken("a", 601)
    assert await shelf.store.heads.size(EN, "a" * 64) == 600
    assert shelf.metrics.registry.get_sample_value("keyflock_stored_model_bytes") == 1_000


async def test_a_smaller_one_takes_a_larger_ones_place_however_full_it_is(shelf: Shelf) -> None:
    await shelf.put("a", 600)
    await shelf.store.heads.put(replace(HEAD, owner="z" * 64, sealed=bytes(5_000)), None)
    shelf.now += timedelta(minutes=1)
    await shelf.quota.tick()

    assert await shelf.is_taken("a", 600)
    assert await shelf.is_taken("a", 10)
    assert not await shelf.is_taken("a", 11)


async def test_what_was_deleted_makes_room_at_once_here_and_after_a_second_elsewhere(shelf: Shelf) -> None:
    await shelf.put("a", 1_000)
    await shelf.store.heads.delete(EN, ["a" * 64])
    elsewhere = await shelf.is_taken("b", 1_000)
    shelf.now += timedelta(seconds=1)
    a_second_later = await shelf.is_taken("b", 1_000)
    await shelf.store.heads.delete(EN, ["b" * 64])
    shelf.quota.freed()

    assert (elsewhere, a_second_later) == (False, True)
    assert await shelf.is_taken("c", 1_000)


async def test_what_other_processes_have_stored_is_known_within_a_minute(shelf: Shelf) -> None:
    await shelf.store.heads.put(replace(HEAD, owner="z" * 64, sealed=bytes(900)), None)
    before = await shelf.is_taken("a", 200)
    shelf.now += timedelta(minutes=1)
    await shelf.quota.tick()

    assert before
    assert not await shelf.is_taken("b", 1)


async def test_of_many_that_come_at_once_no_more_are_taken_than_fit(shelf: Shelf) -> None:
    taken = await asyncio.gather(*(shelf.is_taken(owner, 300) for owner in "abcdefgh"))

    assert sum(taken) == 3
    assert await shelf.store.heads.stored_bytes() == 900


async def test_what_fails_takes_no_room(shelf: Shelf) -> None:
    async def fail() -> None:
        async with shelf.quota.room_for(900, 0):
            raise OSError

    for _ in range(3):
        with pytest.raises(OSError):  # noqa: PT011 - it is the one above
            await fail()

    assert await shelf.is_taken("a", 1_000)


async def test_a_start_counts_what_is_there(shelf: Shelf) -> None:
    await shelf.put("a", 800)
    restarted = StoredModelQuota(shelf.store, 1_000, lambda: shelf.now, Metrics())
    await restarted.start()
    shelf.quota = restarted

    assert not await shelf.is_taken("b", 201)
    assert await shelf.is_taken("b", 200)
