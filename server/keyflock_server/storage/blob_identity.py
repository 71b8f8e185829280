"""Whose blobs these are: a blob store carries the identity of its database, in a marker.

What no row of a database points to is deleted in time. A server that looked at another database's blobs, or
at its own with an empty database, would find all of them to be such. So nothing is read, written or deleted
before the marker says that blobs and database belong together, and before each deletion it is read again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyflock_server.storage.door import BlobMissing, Blobs, StorageDamaged, StorageError, Store
from keyflock_server.storage.records import StoredBlob

#: Key of the marker, which no row points to, and which is never collected.
MARKER_KEY: Final = "identity"
#: Name of the database's identity among what all processes over it agree on.
STORE_ID: Final = "store_id"
_ADOPT: Final = "keyflock db adopt-blobs (with --data-dir, --database and --blobs as for serve)"


class ForeignBlobs(StorageError):
    """The blobs are not, or not known to be, those of the database; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCensus:
    """What is in a blob store, as far as a database is concerned."""

    #: The database that the marker names; None without a marker, or where it cannot be read.
    belongs_to: str | None
    #: Blobs there, without the marker.
    blobs: int
    #: Keys that rows point to, and those of them that are not there.
    in_use: int
    missing: int

    @property
    def unused(self) -> int:
        """Blobs that no row points to: they are deleted in time."""
        return self.blobs - (self.in_use - self.missing)


async def open_store(store: Store, blobs: Blobs, new_id: Callable[[], str]) -> bool:
    """Open the database, if the blobs are its own or there are none yet.

    Args:
        store: Not opened yet.
        blobs: Where its blobs are, or are to be.
        new_id: Gives ids that no other database has.
    Guarantees:
        Of several databases that are opened over one empty blob store at once, one gets it. Where there is
        no database yet and the blob store is not empty, none is made.
    Returns:
        Whether the blobs were marked now, though there were some: an installation from before markers.
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
    if await is_marked(store, blobs):
        return False
    had_blobs = bool(await _keys(blobs))
    await blobs.create(MARKER_KEY, _marker(await _own_id(store)))
    # Another database may have been faster.
    await is_marked(store, blobs)
    return had_blobs


async def is_marked(store: Store, blobs: Blobs) -> bool:
    """Whether the marker names this database; False: there is none, and nothing says that it is another's.

    Raises:
        ForeignBlobs: another database's, or not known to be this one's.
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


async def census(store: Store, blobs: Blobs) -> BlobCensus:
    """What adopting the blobs would mean; the database is open."""
    try:
        belongs_to = await read_marker(blobs)
    except StorageDamaged:
        belongs_to = None
    there, in_use = await _keys(blobs), await keys_in_use(store)
    return BlobCensus(
        belongs_to=belongs_to, blobs=len(there), in_use=len(in_use), missing=len(in_use - there)
    )


async def adopt(store: Store, blobs: Blobs, new_id: Callable[[], str]) -> None:
    """The blobs are this database's from now on, whatever the marker said."""
    await store.cluster.claim(STORE_ID, new_id())
    await blobs.put(MARKER_KEY, _marker(await _own_id(store)))


async def keys_in_use(store: Store) -> set[str]:
    """The keys that rows point to."""
    keys: set[str] = set()
    for record in await store.rounds.unfinished():
        keys.update(record.blob_keys)
        keys.update(row.key for row in await store.rounds.partials(record.round.id))
    for version in await store.populations.versions():
        keys.update(version.blob_keys)
    keys.update(one.average_key for one in await store.populations.all() if one.average_key)
    return keys | {task.optimizer_state_key for task in await store.tasks.all() if task.optimizer_state_key}


async def read_marker(blobs: Blobs) -> str | None:
    """The identity of the database whose blobs these are; None without a marker.

    Raises:
        StorageDamaged: there is a marker that cannot be read.
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
    """Whether a blob is the marker."""
    return blob.key == MARKER_KEY


async def _own_id(store: Store) -> str:
    return await store.cluster.get(STORE_ID) or ""


async def _keys(blobs: Blobs) -> set[str]:
    return {blob.key async for blob in blobs.list_blobs() if not is_marker(blob)}


def _marker(store_id: str) -> bytes:
    return json.dumps({STORE_ID: store_id}).encode()
