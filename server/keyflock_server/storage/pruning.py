"""Applies a retention policy to a record store and its blob store, also while servers use them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.storage.blob_identity import require_own_marker
from keyflock_server.storage.deletion_hold import HoldTaken, is_held
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.orphans import find_orphans
from keyflock_server.storage.records import StoredBlob
from keyflock_server.storage.release_rows import HISTORY, rows_to_keep
from keyflock_server.storage.retention import PrunedRows, RetentionPolicy, expired_rows

#: Maximum number of revocations or tombstones in one transaction.
_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """The numbers of deleted rows and blobs, or of those that would be deleted."""

    rows: PrunedRows
    blobs: int
    blob_bytes: int


async def prune(
    store: RecordStore,
    blobs: BlobStore,
    policy: RetentionPolicy,
    now: datetime,
    *,
    is_dry_run: bool,
    on_deleted: Callable[[StoredBlob], None] = lambda _blob: None,
) -> PruneResult:
    """Delete expired rows in one transaction, and then the blobs that no row points to.

    Args:
        store: The record store.
        blobs: Its blob store.
        policy: The retention policy.
        now: The current time, aware UTC.
        is_dry_run: Whether to only count what would be deleted.
        on_deleted: Called with each deleted blob.
    Guarantees:
        If the process is killed anywhere, all rows still point to existing blobs; the next run finishes.
    Raises:
        ForeignBlobs: fault of the operator; the blobs do not belong to this database. Nothing was deleted.
        HoldTaken: a backup is being made. Nothing was deleted.
        StorageError: fault of the operator or the machine; run it again.
    """
    await require_own_marker(store, blobs)
    if await is_held(store.leases, now):
        raise HoldTaken("A backup of this database is being made: prune it when that is done.")
    populations, versions = await store.populations.all(), await store.populations.versions()
    unfinished, tasks = await store.rounds.unfinished(), await store.tasks.all()
    histories = [await store.releases.page(one.name, None, HISTORY) for one in populations]
    releases = [row for history in histories for row in rows_to_keep(history)]
    expired = expired_rows(policy, now, populations, versions, unfinished, tasks, releases)
    expired_versions = set(expired.versions)
    dead_keys: Sequence[str] = [
        key
        for version in versions
        if (version.population, version.version) in expired_versions
        for key in version.blob_keys
    ]
    rows = await (store.retention.count(expired) if is_dry_run else store.retention.delete(expired))
    old = await find_orphans(
        store, blobs, written_before=expired.orphans_written_before, no_longer_in_use=frozenset(dead_keys)
    )
    if not is_dry_run:
        while await store.revocations.prune(now, _AT_ONCE) or await store.tombstones.prune(now, _AT_ONCE):
            pass  # in transactions of a bounded size
        for blob in old:
            await blobs.delete(blob.key)
            on_deleted(blob)
        if rows.heads:
            await store.personal_models.scrub()
    return PruneResult(rows=rows, blobs=len(old), blob_bytes=sum(blob.size_bytes for blob in old))
