"""While a backup is made nobody deletes a blob: one suite, every store and every blob store."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.stores import STORES, new_store
from tests.contract.test_blobs_contract import blobs
from tests.contract.test_store_contract import NOW

from keyflock_server.storage.blob_identity import open_store
from keyflock_server.storage.deletion_hold import (
    DELETION_HOLD,
    HOLD_S,
    DeletionHold,
    HoldingBlobStore,
    HoldLost,
    HoldTaken,
    is_held,
)
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.pruning import prune
from keyflock_server.storage.retention import RetentionPolicy

__all__ = ["blobs"]  # the fixture

LATER = NOW + timedelta(seconds=HOLD_S)


@pytest.fixture(params=STORES)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, blobs: BlobStore
) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await open_store(opened, blobs, lambda: "a" * 32)
    yield opened
    await opened.close()


async def test_a_blob_outlives_the_hold_and_not_longer(store: RecordStore, blobs: BlobStore) -> None:
    holding = HoldingBlobStore(blobs, store.leases, lambda: NOW)
    await holding.put("a", b"a blob")

    async with DeletionHold(store.leases, "backup-1", lambda: NOW):
        await holding.delete("a")
        during = await holding.get("a")
    await holding.delete("a")

    assert during == b"a blob"
    assert "a" not in {blob.key async for blob in holding.list_blobs()}


async def test_the_hold_of_a_killed_backup_ends_by_itself(store: RecordStore) -> None:
    await store.leases.acquire(DELETION_HOLD, "backup-1", HOLD_S, NOW)

    assert await is_held(store.leases, LATER - timedelta(seconds=1))
    assert not await is_held(store.leases, LATER)


async def test_a_hold_that_a_wrong_clock_took_holds_nothing(store: RecordStore) -> None:
    await store.leases.acquire(DELETION_HOLD, "backup-1", HOLD_S, NOW + timedelta(days=365))

    assert not await is_held(store.leases, NOW)


async def test_a_lease_of_another_name_holds_nothing(store: RecordStore) -> None:
    await store.leases.acquire(f"{DELETION_HOLD}-other", "somebody", HOLD_S, NOW)

    assert not await is_held(store.leases, NOW)


async def test_one_backup_at_a_time(store: RecordStore) -> None:
    async with DeletionHold(store.leases, "backup-1", lambda: NOW):
        with pytest.raises(HoldTaken):
            await DeletionHold(store.leases, "backup-2", lambda: NOW).__aenter__()

    async with DeletionHold(store.leases, "backup-2", lambda: NOW) as hold:
        await hold.require()


async def test_a_backup_that_paused_for_longer_than_its_hold_is_told_so(store: RecordStore) -> None:
    now = [NOW]

    async with DeletionHold(store.leases, "backup-1", lambda: now[0]) as hold:
        now[0] = LATER - timedelta(seconds=1)
        await hold.require()
        now[0] += timedelta(seconds=HOLD_S)
        with pytest.raises(HoldLost):
            await hold.require()
        with pytest.raises(HoldLost):  # what has lapsed once is not taken up again
            await hold.require()


async def test_a_hold_renews_itself(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = asyncio.Event()
    now = [NOW]

    async def sleep(seconds: float) -> None:
        if waited.is_set():
            await asyncio.Event().wait()
        waited.set()
        now[0] += timedelta(seconds=seconds)

    monkeypatch.setattr("keyflock_server.storage.deletion_hold.asyncio.sleep", sleep)
    async with DeletionHold(store.leases, "backup-1", lambda: now[0]):
        await waited.wait()
        for _ in range(1_000):
            (held,) = await store.leases.held(DELETION_HOLD, NOW)
            if held.expires_at > LATER:
                break

    assert held.expires_at == LATER + timedelta(seconds=HOLD_S / 6)


async def test_nothing_is_pruned_meanwhile(store: RecordStore, blobs: BlobStore) -> None:
    async with DeletionHold(store.leases, "backup-1", lambda: NOW):
        with pytest.raises(HoldTaken, match="when that is done"):
            await prune(store, blobs, RetentionPolicy(), NOW, is_dry_run=False)

    await prune(store, blobs, RetentionPolicy(), NOW, is_dry_run=False)
