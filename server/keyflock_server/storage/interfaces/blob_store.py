"""The interface to the blob store."""

from collections.abc import AsyncIterator
from typing import Protocol

from keyflock_server.storage.records import StoredBlob


class BlobStore(Protocol):
    """Immutable byte strings by key. Each key is written once, except for the replaceable marker."""

    @property
    def name(self) -> str:
        """The name of the blob store for messages, without secrets."""
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Write a blob, durably when this returns; raises StorageError."""
        ...

    async def create(self, key: str, data: bytes) -> bool:
        """Write a blob unless the key exists or is being written; return whether it was written."""
        ...

    async def get(self, key: str) -> bytes:
        """Return a blob's bytes; raises BlobMissing and StorageError."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a blob; a missing one is no error."""
        ...

    def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List all blobs; raises StorageError."""
        ...
