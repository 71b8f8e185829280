"""Blobs that no row points to: what a crash leaves between a blob and its transaction."""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.rounds.round import Phase
from keyflock_server.storage.blob_identity import is_marked, is_marker, keys_in_use
from keyflock_server.storage.door import Blobs, Store
from keyflock_server.storage.records import RoundRecord, StoredBlob

#: A blob is written before the row that points to it. One younger than this may be on its way into a
#: transaction of another process; none takes so long.
ORPHAN_AGE: Final = timedelta(hours=1)


async def orphans(
    store: Store,
    blobs: Blobs,
    *,
    written_before: datetime,
    no_longer_in_use: frozenset[str] = frozenset(),
) -> list[StoredBlob]:
    """What no row points to, of what was written before then.

    Args:
        store: The rows.
        blobs: The blobs.
        written_before: Spares younger ones.
        no_longer_in_use: Keys whose rows are about to go.
    Guarantees:
        While rounds are under way, nothing is named that one of them may yet point to, however wrong the
        clocks are: their blobs wait until their rounds are over. Nothing is named of a blob store that is
        another database's, or is not known to be this one's; nor is the marker that says so.
    Raises:
        ForeignBlobs: fault of the operator; the blobs are not this database's.
        StorageError: rows or blobs cannot be listed.
    """
    await is_marked(store, blobs)
    # The blobs first: one whose row comes and goes between the two listings is not taken for another.
    listed = [blob async for blob in blobs.list_blobs()]
    old = [blob for blob in listed if blob.modified_at < written_before and not is_marker(blob)]
    under_way: list[str] = []
    for record in await store.rounds.unfinished():
        under_way += _folders_of(record)
    in_use = await keys_in_use(store) - no_longer_in_use
    return [blob for blob in old if blob.key not in in_use and not blob.key.startswith(tuple(under_way))]


def _folders_of(record: RoundRecord) -> tuple[str, ...]:
    """Where a transaction of this round may soon point to."""
    current = record.round
    sums = (f"partials/{current.id}/", f"aggregates/{current.id}/")
    if current.phase is Phase.COLLECTING:
        return sums
    steps = (f"versions/{current.population}/", f"averages/{current.population}/")
    return (*sums, *steps, f"optimizers/{current.task}/")
