"""One suite, every blob store."""

from pathlib import Path

import pytest

from keyflock_server.storage.blobs import LocalBlobs
from keyflock_server.storage.door import Blobs, StorageError
from keyflock_server.storage.memory import MemoryBlobs


@pytest.fixture(params=["memory", "local"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MemoryBlobs() if request.param == "memory" else LocalBlobs(tmp_path / "blobs")


async def test_a_blob_comes_back_as_it_went_in(blobs: Blobs) -> None:
    await blobs.put("partials/t-1/a", b"\x00\x01")
    await blobs.put("versions/en/0-b/download", b"")

    assert await blobs.get("partials/t-1/a") == b"\x00\x01"
    assert await blobs.get("versions/en/0-b/download") == b""
    assert sorted([key async for key in blobs.list_keys()]) == ["partials/t-1/a", "versions/en/0-b/download"]


async def test_a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(blobs: Blobs) -> None:
    await blobs.put("a/b", b"1")

    await blobs.delete("a/b")
    await blobs.delete("a/b")

    with pytest.raises(StorageError, match="a/b"):
        await blobs.get("a/b")
    assert [key async for key in blobs.list_keys()] == []
