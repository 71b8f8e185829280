"""One suite, every blob store."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.memory_store.blobs import MemoryBlobStore

from keyflock_server.storage.blobs import blobs_at
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.interfaces.blob_store import BlobStore


@pytest.fixture(params=["memory", "local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    match request.param:
        case "memory":
            return MemoryBlobStore(clock=lambda: datetime.now(UTC))
        case "local":
            return blobs_at(f"file://{tmp_path}/blobs")
        case _:
            return blobs_at(request.getfixturevalue("s3_blobs_url"))


async def test_a_blob_comes_back_as_it_went_in(blobs: BlobStore) -> None:
    await blobs.put("partials/t-1/a", b"\x00\x01")
    await blobs.put("versions/en/0-b/download", b"")

    assert await blobs.get("partials/t-1/a") == b"\x00\x01"
    assert await blobs.get("versions/en/0-b/download") == b""
    assert sorted([blob.key async for blob in blobs.list_blobs()]) == [
        "partials/t-1/a",
        "versions/en/0-b/download",
    ]


async def test_a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"1")

    await blobs.delete("a/b")
    await blobs.delete("a/b")

    with pytest.raises(StorageError, match="a/b"):
        await blobs.get("a/b")
    assert [blob.key async for blob in blobs.list_blobs()] == []


async def test_a_listing_tells_how_old_and_how_big_a_blob_is(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"12345")

    (found,) = [blob async for blob in blobs.list_blobs()]

    assert (found.key, found.size_bytes) == ("a/b", 5)
    # The store's clock and ours may differ; a file system's may be coarse.
    assert abs(datetime.now(UTC) - found.modified_at) < timedelta(minutes=5)


async def test_a_key_with_a_prefix_of_another_is_another(blobs: BlobStore) -> None:
    await blobs.put("partials/t-1", b"1")
    await blobs.put("partials/t-10", b"2")

    await blobs.delete("partials/t-1")

    assert await blobs.get("partials/t-10") == b"2"


async def test_megabytes_come_back_whole(blobs: BlobStore) -> None:
    data = bytes(range(256)) * 24_000

    await blobs.put("versions/en/1/checkpoint", data)

    assert await blobs.get("versions/en/1/checkpoint") == data
