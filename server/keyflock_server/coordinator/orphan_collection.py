"""Orphan collection deletes blobs that no row points to: a crash before a transaction leaves them."""

from datetime import UTC, datetime

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.storage.deletion_hold import is_held
from keyflock_server.storage.orphans import ORPHAN_AGE, find_orphans


class OrphanCollection:
    """Deletes orphans once an hour, the first time in the first pass."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._due_at = datetime.min.replace(tzinfo=UTC)

    async def collect_if_due(self) -> None:
        """Collect once an hour; a failure waits for the next time and stops nothing else."""
        if self._deps.clock() < self._due_at:
            return
        try:
            await self.collect()
        except Exception as error:  # noqa: BLE001 - whatever it was, the rounds go on
            self._deps.observer.store_unreachable(error)

    async def collect(self) -> None:
        """Delete the blobs that have been orphans for an hour; none while a backup is made.

        Raises:
            ForeignBlobs: fault of the operator; the blobs are another database's by now.
            StorageError: rows or blobs cannot be read; nothing was deleted.
        """
        deps, now = self._deps, self._deps.clock()
        self._due_at = now + ORPHAN_AGE
        if await is_held(deps.store.leases, now):
            return
        for blob in await find_orphans(deps.store, deps.blobs, written_before=now - ORPHAN_AGE):
            await deps.blobs.delete(blob.key)
            deps.observer.orphan_deleted(blob.key, blob.size_bytes, (now - blob.modified_at).total_seconds())
