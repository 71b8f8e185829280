"""Stored personal models together take what is set aside for them, and no more."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.audits import AUDIT
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import EN, POPULATION, VERSION
from tests.memory_store.store import MemoryStore

from keyflock_server.personal_models.quota import StoredModelQuota
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.metrics import Metrics

pytestmark = pytest.mark.fault("D15")


@dataclass
class QuotaHarness:
    """A store of personal models, a quota of 1,000 bytes, and a clock."""

    store: MemoryStore
    quota: StoredModelQuota
    metrics: Metrics
    now: datetime

    async def put(self, owner: str, size_bytes: int) -> None:
        before = await self.store.personal_models.size(EN, owner * 64)
        async with self.quota.reserve(size_bytes, before):
            await self.store.personal_models.put(
                replace(HEAD, owner=owner * 64, sealed=bytes(size_bytes)), None
            )

    async def is_taken(self, owner: str, size_bytes: int) -> bool:
        try:
            await self.put(owner, size_bytes)
        except ApiError as refused:
            return refused.code is not ProblemCode.QUOTA_EXCEEDED
        return True


@pytest.fixture
async def harness() -> QuotaHarness:
    made = QuotaHarness(MemoryStore(), None, Metrics(), datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]  # below
    made.quota = StoredModelQuota(made.store, 1_000, lambda: made.now, made.metrics)
    await made.store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await made.quota.start()
    return made


async def test_what_would_go_beyond_is_refused_and_what_is_stored_stays(harness: QuotaHarness) -> None:
    taken = [
        await harness.is_taken("a", 600),
        await harness.is_taken("b", 400),
        await harness.is_taken("c", 1),
    ]

    assert taken == [True, True, False]
    assert not await harness.is_taken("a", 601)
    assert await harness.store.personal_models.size(EN, "a" * 64) == 600
    assert harness.metrics.registry.get_sample_value("keyflock_stored_model_bytes") == 1_000


async def test_a_smaller_one_takes_a_larger_ones_place_however_full_it_is(harness: QuotaHarness) -> None:
    await harness.put("a", 600)
    await harness.store.personal_models.put(replace(HEAD, owner="z" * 64, sealed=bytes(5_000)), None)
    harness.now += timedelta(minutes=1)
    await harness.quota.tick()

    assert await harness.is_taken("a", 600)
    assert await harness.is_taken("a", 10)
    assert not await harness.is_taken("a", 11)


async def test_what_was_deleted_makes_room_at_once_here_and_after_a_second_elsewhere(
    harness: QuotaHarness,
) -> None:
    await harness.put("a", 1_000)
    await harness.store.personal_models.delete(EN, ["a" * 64])
    elsewhere = await harness.is_taken("b", 1_000)
    harness.now += timedelta(seconds=1)
    a_second_later = await harness.is_taken("b", 1_000)
    await harness.store.personal_models.delete(EN, ["b" * 64])
    harness.quota.freed()

    assert (elsewhere, a_second_later) == (False, True)
    assert await harness.is_taken("c", 1_000)


async def test_what_other_processes_have_stored_is_known_within_a_minute(harness: QuotaHarness) -> None:
    await harness.store.personal_models.put(replace(HEAD, owner="z" * 64, sealed=bytes(900)), None)
    before = await harness.is_taken("a", 200)
    harness.now += timedelta(minutes=1)
    await harness.quota.tick()

    assert before
    assert not await harness.is_taken("b", 1)


async def test_of_many_that_come_at_once_no_more_are_taken_than_fit(harness: QuotaHarness) -> None:
    taken = await asyncio.gather(*(harness.is_taken(owner, 300) for owner in "abcdefgh"))

    assert sum(taken) == 3
    assert await harness.store.personal_models.stored_bytes() == 900


async def test_what_fails_takes_no_room(harness: QuotaHarness) -> None:
    async def fail() -> None:
        async with harness.quota.reserve(900, 0):
            raise OSError

    for _ in range(3):
        with pytest.raises(OSError):  # noqa: PT011 - it is the one above
            await fail()

    assert await harness.is_taken("a", 1_000)


async def test_a_start_counts_what_is_there(harness: QuotaHarness) -> None:
    await harness.put("a", 800)
    restarted = StoredModelQuota(harness.store, 1_000, lambda: harness.now, Metrics())
    await restarted.start()
    harness.quota = restarted

    assert not await harness.is_taken("b", 201)
    assert await harness.is_taken("b", 200)
