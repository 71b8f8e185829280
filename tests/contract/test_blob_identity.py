"""A blob store says whose it is: no server works, and nothing is deleted, over another database's blobs."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.stores import STORES, new_store
from tests.contract.test_blobs_contract import blobs
from tests.contract.test_store_contract import NOW, POPULATION, VERSION
from tests.memory_store.blobs import MemoryBlobStore
from tests.memory_store.store import MemoryStore

from keyflock_server.storage.blob_identity import (
    MARKER_KEY,
    STORE_ID,
    ForeignBlobs,
    adopt,
    census,
    open_store,
)
from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.orphans import find_orphans
from keyflock_server.storage.pruning import prune
from keyflock_server.storage.retention import RetentionPolicy
from keyflock_server.storage.sql.store import SqlStore

__all__ = ["blobs"]  # the fixture

pytestmark = pytest.mark.fault("D7")


def ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):032x}"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RecordStore:
    return new_store(request, tmp_path)


async def keys(blobs: BlobStore) -> set[str]:
    return {blob.key async for blob in blobs.list_blobs()}


async def with_a_model(blobs: BlobStore, store: RecordStore | None = None) -> RecordStore:
    """A database that has worked over these blobs."""
    owner = store or MemoryStore()
    await open_store(owner, blobs, lambda: "a" * 32)
    for key in (VERSION.download_key, VERSION.checkpoint_key):
        await blobs.put(key, b"a model")
    await owner.populations.add(POPULATION, VERSION, audit=AUDIT)
    return owner


async def test_an_empty_database_takes_an_empty_blob_store_and_finds_it_again(
    store: RecordStore, blobs: BlobStore
) -> None:
    assert not await open_store(store, blobs, ids())
    assert not await open_store(store, blobs, ids())

    assert await keys(blobs) == {MARKER_KEY}
    assert await store.cluster.get(STORE_ID) == f"{1:032x}"
    await store.close()


async def test_a_new_database_is_not_made_over_blobs_of_another(store: RecordStore, blobs: BlobStore) -> None:
    await with_a_model(blobs)
    before = await keys(blobs)

    with pytest.raises(ForeignBlobs, match="not empty"):
        await open_store(store, blobs, ids())

    assert not await store.exists()
    assert await keys(blobs) == before
    await store.close()


async def test_a_database_of_its_own_does_not_open_over_anothers_blobs(
    store: RecordStore, blobs: BlobStore
) -> None:
    await with_a_model(blobs)
    await open_store(store, MemoryBlobStore(), ids())

    with pytest.raises(
        ForeignBlobs, match=f"belongs to another database \\(identity {'a' * 32}\\).*adopt-blobs"
    ):
        await open_store(store, blobs, ids())
    with pytest.raises(ForeignBlobs):
        await find_orphans(store, blobs, written_before=NOW + timedelta(days=400))
    for is_dry_run in (True, False):
        with pytest.raises(ForeignBlobs):
            await prune(store, blobs, RetentionPolicy(), NOW + timedelta(days=500), is_dry_run=is_dry_run)

    assert await keys(blobs) == {MARKER_KEY, VERSION.download_key, VERSION.checkpoint_key}
    await store.close()


async def test_blobs_from_before_there_were_markers_are_marked_by_the_database_that_points_to_them(
    store: RecordStore, blobs: BlobStore
) -> None:
    await with_a_model(blobs, store)
    await blobs.delete(MARKER_KEY)
    other = MemoryStore()
    await open_store(other, MemoryBlobStore(), ids())

    with pytest.raises(ForeignBlobs, match="no marker"):
        await open_store(other, blobs, ids())
    assert await open_store(store, blobs, ids())

    assert not await open_store(store, blobs, ids())
    with pytest.raises(ForeignBlobs, match="another database"):
        await open_store(other, blobs, ids())
    await store.close()


async def test_a_database_whose_blobs_are_all_gone_does_not_start_over_an_empty_place(
    blobs: BlobStore,
) -> None:
    store = await with_a_model(MemoryBlobStore())

    with pytest.raises(ForeignBlobs, match="mounted"):
        await open_store(store, blobs, ids())

    assert await keys(blobs) == set()


@pytest.mark.parametrize(
    "marker", [b"", b"{", b"[]", b'{"store_id": 1}', b'{"store_id": "a b"}', b"\xff" * 40]
)
async def test_a_damaged_marker_stops_the_start_and_is_mended_by_adopting(marker: bytes) -> None:
    blobs = MemoryBlobStore()
    store = await with_a_model(blobs)
    await blobs.put(MARKER_KEY, marker)

    with pytest.raises(StorageDamaged, match="adopt-blobs"):
        await open_store(store, blobs, ids())
    await adopt(store, blobs, ids())

    assert not await open_store(store, blobs, ids())


async def test_of_two_databases_that_start_at_once_over_one_empty_place_one_gets_it(blobs: BlobStore) -> None:
    stores, new_id = [MemoryStore() for _ in range(4)], ids()

    answers = await asyncio.gather(
        *(open_store(store, blobs, new_id) for store in stores), return_exceptions=True
    )

    assert [type(one) for one in answers].count(bool) == 1
    assert sum(isinstance(one, ForeignBlobs) for one in answers) == 3


async def test_servers_of_one_database_that_start_at_once_all_start(
    store: RecordStore, blobs: BlobStore
) -> None:
    new_id = ids()

    answers = await asyncio.gather(*(open_store(store, blobs, new_id) for _ in range(4)))

    assert answers == [False] * 4
    await store.close()


async def test_a_restored_database_adopts_its_blobs_and_sees_first_what_that_means(blobs: BlobStore) -> None:
    restored = await with_a_model(MemoryBlobStore())
    await with_a_model(blobs)
    await restored.cluster.forget([STORE_ID])
    await restored.cluster.claim(STORE_ID, "b" * 32)
    await blobs.put("versions/en/1-x/download", b"made after the backup")

    found = await census(restored, blobs)
    await adopt(restored, blobs, ids())

    assert (found.belongs_to, found.blobs, found.in_use, found.missing, found.unused) == (
        "a" * 32,
        3,
        2,
        0,
        1,
    )
    assert not await open_store(restored, blobs, ids())


async def test_a_server_whose_blobs_were_adopted_by_another_deletes_nothing_any_more(
    blobs: BlobStore,
) -> None:
    running = await with_a_model(blobs)
    await blobs.put("versions/de/0-x/download", b"of the other")
    other = MemoryStore()
    await open_store(other, MemoryBlobStore(), ids())

    await adopt(other, blobs, ids())

    with pytest.raises(ForeignBlobs):
        await find_orphans(running, blobs, written_before=NOW + timedelta(days=400))


async def test_the_marker_is_no_orphan(blobs: BlobStore) -> None:
    store = await with_a_model(blobs)
    await blobs.put("partials/t-1/lost/1", b"no row points to it")

    found = await find_orphans(store, blobs, written_before=NOW + timedelta(days=10_000))

    assert [blob.key for blob in found] == ["partials/t-1/lost/1"]


async def test_a_missing_sqlite_file_is_not_hidden_by_a_new_one_and_can_be_restored(tmp_path: Path) -> None:
    blobs, file = MemoryBlobStore(), tmp_path / "keyflock.sqlite3"
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    await with_a_model(blobs, store)
    await store.close()
    backup = file.rename(tmp_path / "backup")

    refused = SqlStore(f"sqlite+aiosqlite:///{file}")
    with pytest.raises(ForeignBlobs, match="Restore the database"):
        await open_store(refused, blobs, ids())
    await refused.close()
    left = sorted(one.name for one in tmp_path.iterdir())  # noqa: ASYNC240 - nothing else runs
    backup.rename(file)
    restored = SqlStore(f"sqlite+aiosqlite:///{file}")
    await open_store(restored, blobs, ids())

    assert left == ["backup"]
    assert await restored.populations.get(POPULATION.name) == POPULATION
    await restored.close()


async def test_a_blob_is_created_once_however_many_try(blobs: BlobStore) -> None:
    made = await asyncio.gather(*(blobs.create("identity", f"{number}".encode()) for number in range(4)))
    before = await blobs.get("identity")

    assert sorted(made) == [False, False, False, True]
    assert not await blobs.create("identity", b"late")
    assert await blobs.get("identity") == before == str(made.index(True)).encode()
