"""Blob stores through obstore: files below one folder, or objects in a bucket.

A file is written as a temporary file, renamed, and here also synced with every folder that was made for it: a
database row must never point to a blob that a power cut has removed. An object store acknowledges a put when
it is durable.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from keyflock_server.storage.errors import BlobMissing, StorageError, StorageUnavailable
from keyflock_server.storage.records import StoredBlob

#: Limits of one request to a bucket, and how often it is retried; a phone's report waits for it.
REQUEST_TIMEOUT: Final = "15s"
CONNECT_TIMEOUT: Final = "3s"
RETRIES: Final = 3
_OPTIONS: Final = frozenset({"endpoint", "region"})


def blobs_at(url: str) -> "LocalBlobStore | S3BlobStore":
    """Return the blob store of a ``--blobs`` URL.

    The URL is ``file:///PATH`` or ``s3://BUCKET/PREFIX?endpoint=…&region=…``.
    An S3 store's credentials come from the sources that AWS's own programs use: ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``, a web identity, or the machine's role.

    Raises:
        StorageError: fault of the operator; the URL is not understood (the message quotes nothing of it), or
            the folder cannot be created.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path and not options:
        return LocalBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and "@" not in parts.netloc and options.keys() <= _OPTIONS:
        return S3BlobStore(parts.netloc, parts.path.strip("/"), **options)
    raise StorageError(
        "The blob URL is not understood; write file:///PATH or s3://BUCKET/PREFIX, the latter with "
        "?endpoint=URL&region=NAME where needed. Credentials belong into AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, not into the URL."
    )


class LocalBlobStore:
    """Blobs on this machine's disk.

    Args:
        folder: The folder of the blobs; created if it does not exist.
    Raises:
        StorageError: the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: The name of the blob store for messages.
        self.name = str(folder)
        try:
            made = [one for one in (folder, *folder.parents) if not one.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            for one in made:
                _fsync(one.parent)
            self._store = LocalStore(prefix=folder)
        except (OSError, BaseError) as error:
            raise StorageError(f"The blob folder {folder} cannot be used: {error}") from None

    async def put(self, key: str, data: bytes) -> None:
        """Write a blob and sync it to the disk."""
        try:
            await obstore.put_async(self._store, key, data, use_multipart=False)
            await asyncio.to_thread(self._sync, self._folder / key)
        except (OSError, BaseError) as error:
            raise _failed(key, "written", error) from None

    async def create(self, key: str, data: bytes) -> bool:
        """Write a blob and sync it, unless the key exists; return whether it was written."""
        is_new = await _create(self._store, key, data)
        if is_new:
            await asyncio.to_thread(self._sync, self._folder / key)
        return is_new

    async def get(self, key: str) -> bytes:
        """Return a blob's bytes; raises BlobMissing."""
        return await _get(self._store, key)

    async def delete(self, key: str) -> None:
        """Delete a blob's file; a missing one is no error."""
        await _delete(self._store, key)

    async def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List all blobs."""
        async for blob in _list(self._store):
            yield blob

    def _sync(self, path: Path) -> None:
        # It is not known here which of these folders are new; syncing an old one costs nothing.
        for target in (path, *(folder for folder in path.parents if folder.is_relative_to(self._folder))):
            _fsync(target)


class S3BlobStore:
    """Blobs in a bucket of S3, or of a service that is compatible with it.

    Args:
        bucket: The name of an existing bucket.
        prefix: The prefix of all keys; may be empty.
        endpoint: The URL of another service than Amazon's. ``http://`` is accepted, because the operator set
            it.
        region: The bucket's region; defaults to AWS_REGION.
    Raises:
        StorageError: an option cannot be used.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str | None = None, region: str | None = None
    ) -> None:
        #: The name of the blob store for messages.
        self.name = f"s3://{bucket}/{prefix}"
        given: dict[str, Any] = {"endpoint": endpoint, "region": region}
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "allow_http": (endpoint or "").startswith("http://"),
                    "timeout": REQUEST_TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                },
                retry_config={"max_retries": RETRIES},
                **{name: value for name, value in given.items() if value is not None},
            )
        except (ValueError, BaseError) as error:
            raise StorageError(f"The bucket {bucket} cannot be used: {_reason(error)}.") from None

    async def put(self, key: str, data: bytes) -> None:
        """Write a blob with one request, whatever its size: it exists as a whole or not at all."""
        try:
            await obstore.put_async(self._store, key, data, use_multipart=False)
        except (OSError, BaseError) as error:
            raise _failed(key, "written", error) from None

    async def create(self, key: str, data: bytes) -> bool:
        """Write a blob with one request unless the key exists; return whether it was written."""
        return await _create(self._store, key, data)

    async def get(self, key: str) -> bytes:
        """Return a blob's bytes; raises BlobMissing."""
        return await _get(self._store, key)

    async def delete(self, key: str) -> None:
        """Delete the object; a bucket with versioning retains it until its lifecycle rule expires it."""
        await _delete(self._store, key)

    async def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List the blobs below the prefix."""
        async for blob in _list(self._store):
            yield blob


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def _create(store: ObjectStore, key: str, data: bytes) -> bool:
    try:
        await obstore.put_async(store, key, data, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    except (OSError, BaseError) as error:
        raise _failed(key, "written", error) from None
    return True


async def _get(store: ObjectStore, key: str) -> bytes:
    try:
        answer = await obstore.get_async(store, key)
        return bytes(await answer.bytes_async())
    except FileNotFoundError:
        raise BlobMissing(f"Blob {key} cannot be read: there is none.") from None
    except (OSError, BaseError) as error:
        raise _failed(key, "read", error) from None


async def _delete(store: ObjectStore, key: str) -> None:
    try:
        await obstore.delete_async(store, key)
    except FileNotFoundError:
        return
    except (OSError, BaseError) as error:
        raise _failed(key, "deleted", error) from None


async def _list(store: ObjectStore) -> AsyncIterator[StoredBlob]:
    try:
        async for chunk in obstore.list(store):
            for entry in chunk:
                yield StoredBlob(
                    key=entry["path"], modified_at=entry["last_modified"], size_bytes=entry["size"]
                )
    except (OSError, BaseError) as error:
        raise StorageUnavailable(f"The blobs cannot be listed: {_reason(error)}.") from None


def _failed(key: str, what: str, error: Exception) -> StorageUnavailable:
    return StorageUnavailable(f"Blob {key} cannot be {what}: {_reason(error)}.")


def _reason(error: Exception) -> str:
    # The following lines are the library's dump of its nested error.
    return str(error).partition("\n")[0].strip().rstrip(".")
