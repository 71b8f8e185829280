"""The identity of a blob store: a marker blob names the database that the blobs belong to.

Blobs that no row points to are deleted after a while. With another database's blobs, or with an empty
database, a server would take all blobs for such. So nothing is read, written or deleted before the marker
confirms that blobs and database belong together, and the marker is read again before each deletion.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyflock_server.storage.errors import BlobMissing, StorageDamaged, StorageError
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import StoredBlob

#: Key of the marker. No row points to it, and it is never deleted.
MARKER_KEY: Final = "identity"
#: Name of the database's identity among the cluster's values.
STORE_ID: Final = "store_id"
_ADOPT: Final = "keyflock db adopt-blobs (with --data-dir, --database and --blobs as for serve)"


class ForeignBlobs(StorageError):
    """The blobs do not, or may not, belong to the database; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCensus:
    """The blobs of a blob store, compared with a database's rows."""

    #: The database that the marker names; None if there is no readable marker.
    belongs_to: str | None
    #: Number of blobs, without the marker.
    blobs: int
    #: Number of keys that rows point to, and of those whose blob is missing.
    in_use: int
    missing: int

    @property
    def unused(self) -> int:
        """Return the number of blobs that no row points to; they are deleted after a while."""
        return self.blobs - (self.in_use - self.missing)


async def open_store(store: RecordStore, blobs: BlobStore, new_id: Callable[[], str]) -> bool:
    """Open the database, if the blobs belong to it or there are none yet.

    Args:
        store: The record store, not opened yet.
        blobs: The blob store for its blobs.
        new_id: Returns ids that no other database has.
    Guarantees:
        If several databases are opened over one empty blob store at once, one gets it. If there is no
        database yet and the blob store is not empty, no database is created.
    Returns:
        Whether existing blobs were marked now, as of an installation from before markers.
    Raises:
        ForeignBlobs: fault of the operator; the message says which and what to do.
        StorageError: the database or the blobs cannot be used.
    """
    if not await store.exists() and [blob async for blob in blobs.list_blobs()] and not await store.exists():
        raise ForeignBlobs(
            f"There is no database ({store.name}) yet, but the blob store {blobs.name} is not empty: it is "
            "another database's, or this one was lost. Restore the database from its backup, or give the "
            "new one an empty place for its blobs (--blobs). Nothing was changed."
        )
    await store.open()
    await store.cluster.claim(STORE_ID, new_id())
    if await require_own_marker(store, blobs):
        return False
    had_blobs = bool(await _keys(blobs))
    await blobs.create(MARKER_KEY, _marker(await _own_id(store)))
    # Another database may have written its marker first.
    await require_own_marker(store, blobs)
    return had_blobs


async def require_own_marker(store: RecordStore, blobs: BlobStore) -> bool:
    """Return whether the marker names this database; False if there is no marker, and the blobs fit.

    Raises:
        ForeignBlobs: the blobs belong to another database, or may do so.
        StorageDamaged: the marker cannot be read.
    """
    marker, own = await read_marker(blobs), await _own_id(store)
    if marker is not None:
        if marker != own:
            raise ForeignBlobs(
                f"The blob store {blobs.name} belongs to another database (identity {marker}) than "
                f"{store.name} (identity {own or 'none'}). Give the blobs of this database (--blobs). After "
                f"a restore, or if they are its own all the same: {_ADOPT}. Nothing was changed."
            )
        return True
    there, in_use = await _keys(blobs), await keys_in_use(store)
    if (there or in_use) and not there & in_use:
        raise ForeignBlobs(
            f"The blob store {blobs.name} has none of the {len(in_use)} blobs that the database "
            f"({store.name}) points to, {len(there)} others, and no marker that says whose they are. Is it "
            f"the right place, and mounted? After a restore: {_ADOPT}. Nothing was changed."
        )
    return False


async def census(store: RecordStore, blobs: BlobStore) -> BlobCensus:
    """Compare the blobs with the rows of an open database, before they are adopted."""
    try:
        belongs_to = await read_marker(blobs)
    except StorageDamaged:
        belongs_to = None
    there, in_use = await _keys(blobs), await keys_in_use(store)
    return BlobCensus(
        belongs_to=belongs_to, blobs=len(there), in_use=len(in_use), missing=len(in_use - there)
    )


async def adopt(store: RecordStore, blobs: BlobStore, new_id: Callable[[], str]) -> None:
    """Mark the blobs as this database's, whatever the marker says."""
    await store.cluster.claim(STORE_ID, new_id())
    await blobs.put(MARKER_KEY, _marker(await _own_id(store)))


async def keys_in_use(store: RecordStore) -> set[str]:
    """Return the blob keys that rows point to."""
    keys: set[str] = set()
    for record in await store.rounds.unfinished():
        keys.update(record.blob_keys)
        keys.update(row.key for row in await store.rounds.partials(record.round.id))
    for version in await store.populations.versions():
        keys.update(version.blob_keys)
    keys.update(one.average_key for one in await store.populations.all() if one.average_key)
    return keys | {task.optimizer_state_key for task in await store.tasks.all() if task.optimizer_state_key}


async def read_marker(blobs: BlobStore) -> str | None:
    """Return the identity of the database that the marker names; None without a marker.

    Raises:
        StorageDamaged: the marker cannot be read.
    """
    try:
        data = await blobs.get(MARKER_KEY)
    except BlobMissing:
        return None
    try:
        named = json.loads(data)[STORE_ID]
    except (ValueError, KeyError, TypeError, RecursionError):
        named = None
    if not isinstance(named, str) or not named.isalnum() or not named.isascii() or len(named) > 64:
        raise StorageDamaged(
            f"The marker {MARKER_KEY!r} of the blob store {blobs.name}, which says whose blobs they are, "
            f"cannot be read. Restore the blobs from their backup; if only the marker is damaged: {_ADOPT}."
        )
    return named


def is_marker(blob: StoredBlob) -> bool:
    """Return whether a blob is the marker."""
    return blob.key == MARKER_KEY


async def _own_id(store: RecordStore) -> str:
    return await store.cluster.get(STORE_ID) or ""


async def _keys(blobs: BlobStore) -> set[str]:
    return {blob.key async for blob in blobs.list_blobs() if not is_marker(blob)}


def _marker(store_id: str) -> bytes:
    return json.dumps({STORE_ID: store_id}).encode()
