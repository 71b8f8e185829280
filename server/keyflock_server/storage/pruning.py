"""Applies a retention policy to a store and its blobs, also while servers run over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.storage.blob_identity import is_marked
from keyflock_server.storage.door import Blobs, Store
from keyflock_server.storage.orphans import orphans
from keyflock_server.storage.records import StoredBlob
from keyflock_server.storage.retention import Pruned, RetentionPolicy, doomed

#: Revocations or tombstones in one transaction.
_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What went, or would go."""

    rows: Pruned
    blobs: int
    blob_bytes: int


async def prune(
    store: Store,
    blobs: Blobs,
    policy: RetentionPolicy,
    now: datetime,
    *,
    is_dry_run: bool,
    on_deleted: Callable[[StoredBlob], None] = lambda _blob: None,
) -> PruneResult:
    """Delete what the policy dooms: rows first, in one transaction, and then blobs that none points to.

    Args:
        store: The rows.
        blobs: The blobs.
        policy: What is kept.
        now: Aware UTC.
        is_dry_run: Only say what would go.
        on_deleted: Told of each blob that was deleted.
    Guarantees:
        Killed anywhere, it leaves rows that point to their blobs; the next run finishes.
    Raises:
        ForeignBlobs: fault of the operator; the blobs are not this database's. Nothing was deleted.
        StorageError: fault of the operator or the machine; run it again.
    """
    await is_marked(store, blobs)
    populations, versions = await store.populations.all(), await store.populations.versions()
    unfinished, tasks = await store.rounds.unfinished(), await store.tasks.all()
    going = doomed(policy, now, populations, versions, unfinished, tasks)
    gone = set(going.versions)
    dead_keys: Sequence[str] = [
        key
        for version in versions
        if (version.population, version.version) in gone
        for key in version.blob_keys
    ]
    rows = await (store.retention.count(going) if is_dry_run else store.retention.delete(going))
    old = await orphans(
        store, blobs, written_before=going.orphans_written_before, no_longer_in_use=frozenset(dead_keys)
    )
    if not is_dry_run:
        while await store.revocations.prune(now, _AT_ONCE) or await store.tombstones.prune(now, _AT_ONCE):
            pass  # in transactions of a bounded size
        for blob in old:
            await blobs.delete(blob.key)
            on_deleted(blob)
        if rows.heads:
            await store.heads.scrub()
    return PruneResult(rows=rows, blobs=len(old), blob_bytes=sum(blob.size_bytes for blob in old))
