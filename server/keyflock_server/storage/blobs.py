"""Blobs as files below one folder, through obstore, so that an object store drops in.

A put is a temporary file, a rename, and here also an fsync of the file and its folder: a database row must
never point to a blob that a power cut took away.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from keyflock_server.storage.door import StorageError


class LocalBlobs:
    """Blobs on this machine's disk.

    Args:
        folder: Made if it is not there.
    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(prefix=folder)
        except (OSError, BaseError) as error:
            raise StorageError(f"The blob folder {folder} cannot be used: {error}") from None

    async def put(self, key: str, data: bytes) -> None:
        """Write and sync."""
        try:
            await obstore.put_async(self._store, key, data, use_multipart=False)
            await asyncio.to_thread(self._sync, self._folder / key)
        except (OSError, BaseError) as error:
            raise StorageError(f"Blob {key} cannot be written: {error}") from None

    async def get(self, key: str) -> bytes:
        """Read whole."""
        try:
            answer = await obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())
        except (OSError, BaseError) as error:
            raise StorageError(f"Blob {key} cannot be read: {error}") from None

    async def delete(self, key: str) -> None:
        """Unlink."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (OSError, BaseError) as error:
            raise StorageError(f"Blob {key} cannot be deleted: {error}") from None

    async def list_keys(self) -> AsyncIterator[str]:
        """List."""
        async for chunk in obstore.list(self._store):
            for entry in chunk:
                yield entry["path"]

    @staticmethod
    def _sync(path: Path) -> None:
        for target in (path, path.parent):
            handle = os.open(target, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
