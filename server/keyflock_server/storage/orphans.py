"""Blobs that no row points to: what a crash leaves between a blob and its transaction."""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import Blobs, Store
from keyflock_server.storage.records import RoundRecord, StoredBlob

#: A blob is written before the row that points to it. One younger than this may be on its way into a
#: transaction of another process; none takes so long.
ORPHAN_AGE: Final = timedelta(hours=1)


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


async def orphans(
    store: Store,
    blobs: Blobs,
    *,
    written_before: datetime | None,
    no_longer_in_use: frozenset[str] = frozenset(),
) -> list[StoredBlob]:
    """What no row points to, of what was written before then.

    Args:
        store: The rows.
        blobs: The blobs.
        written_before: Spares younger ones; None for a process that has not begun to work and shares the
            store with nobody: there is nothing to spare.
        no_longer_in_use: Keys whose rows are about to go.
    Guarantees:
        While rounds are under way, nothing is named that one of them may yet point to, however wrong the
        clocks are: their blobs wait until their rounds are over.
    Raises:
        StorageError: rows or blobs cannot be listed.
    """
    # The blobs first: one whose row comes and goes between the two listings is not taken for another.
    listed = [blob async for blob in blobs.list_blobs()]
    old, under_way = listed, list[str]()
    if written_before is not None:
        old = [blob for blob in listed if blob.modified_at < written_before]
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
