"""Orphans: blobs that no row points to, as a crash leaves them between a blob's write and its transaction."""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.rounds.round import Phase
from keyflock_server.storage.blob_identity import is_marker, keys_in_use, require_own_marker
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import RoundRecord, StoredBlob

#: A blob is written before the row that points to it. A younger blob than this may belong to a transaction of
#: another process that has not committed yet; none takes so long.
ORPHAN_AGE: Final = timedelta(hours=1)


async def find_orphans(
    store: RecordStore,
    blobs: BlobStore,
    *,
    written_before: datetime,
    no_longer_in_use: frozenset[str] = frozenset(),
) -> list[StoredBlob]:
    """Return the blobs that were written before then and that no row points to.

    Args:
        store: The rows.
        blobs: The blobs.
        written_before: Younger blobs are left out.
        no_longer_in_use: Keys of rows that are about to be deleted.
    Guarantees:
        While rounds are open, no blob is returned that one of them may yet point to, however wrong the clocks
        are. No blob is returned of a blob store that does not, or may not, belong to this database, and
        never the marker.
    Raises:
        ForeignBlobs: fault of the operator; the blobs do not belong to this database.
        StorageError: rows or blobs cannot be listed.
    """
    await require_own_marker(store, blobs)
    # Blobs are listed before rows, so that a blob whose row is written meanwhile is not taken for an orphan.
    listed = [blob async for blob in blobs.list_blobs()]
    old = [blob for blob in listed if blob.modified_at < written_before and not is_marker(blob)]
    under_way: list[str] = []
    for record in await store.rounds.unfinished():
        under_way += _folders_of(record)
    in_use = await keys_in_use(store) - no_longer_in_use
    return [blob for blob in old if blob.key not in in_use and not blob.key.startswith(tuple(under_way))]


def _folders_of(record: RoundRecord) -> tuple[str, ...]:
    """Return the key prefixes of blobs that a transaction of this round may soon point to."""
    current = record.round
    sums = (f"partials/{current.id}/", f"aggregates/{current.id}/")
    if current.phase is Phase.COLLECTING:
        return sums
    steps = (f"versions/{current.population}/", f"averages/{current.population}/")
    return (*sums, *steps, f"optimizers/{current.task}/")
