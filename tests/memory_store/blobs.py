"""A blob store in memory, for tests."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from keyflock_server.storage.clock import Clock
from keyflock_server.storage.errors import BlobMissing
from keyflock_server.storage.records import StoredBlob


class MemoryBlobStore:
    """``BlobStore`` without a disk.

    Args:
        clock: Gives the time at which a blob is written; without one, all blobs have the oldest time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._blobs: dict[str, bytes] = {}
        self._written_at: dict[str, datetime] = {}
        self._clock = clock
        #: The name of the blob store for messages.
        self.name = "memory"

    async def put(self, key: str, data: bytes) -> None:
        """Store a blob."""
        self._blobs[key] = bytes(data)
        self._written_at[key] = self._clock() if self._clock else datetime.min.replace(tzinfo=UTC)

    async def create(self, key: str, data: bytes) -> bool:
        """Store a blob unless the key exists; return whether it was stored."""
        if key in self._blobs:
            return False
        await self.put(key, data)
        return True

    async def get(self, key: str) -> bytes:
        """Return a blob's bytes; raises BlobMissing."""
        if key not in self._blobs:
            raise BlobMissing(f"Blob {key} cannot be read: there is none.")
        return self._blobs[key]

    async def delete(self, key: str) -> None:
        """Delete a blob."""
        self._blobs.pop(key, None)

    async def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List all blobs."""
        for key, data in list(self._blobs.items()):
            yield StoredBlob(key=key, modified_at=self._written_at[key], size_bytes=len(data))
