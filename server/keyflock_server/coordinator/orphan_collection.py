"""Deleting blobs that no row points to: a crash leaves them between a blob and its transaction."""

from datetime import UTC, datetime

from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.storage.orphans import ORPHAN_AGE, orphans


class OrphanCollection:
    """Looks for orphans once an hour, the first time in the first pass."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._due_at = datetime.min.replace(tzinfo=UTC)

    async def collect_if_due(self) -> None:
        """Collect, once an hour; what fails waits for the next time, and nothing else waits for it."""
        if self._world.clock() < self._due_at:
            return
        try:
            await self.collect()
        except Exception as error:  # noqa: BLE001 - whatever it was, the rounds go on
            self._world.observer.store_unreachable(error)

    async def collect(self) -> None:
        """Delete what has been an orphan for an hour.

        Raises:
            ForeignBlobs: fault of the operator; the blobs are another database's by now.
            StorageError: rows or blobs cannot be read; nothing was deleted.
        """
        world, now = self._world, self._world.clock()
        self._due_at = now + ORPHAN_AGE
        for blob in await orphans(world.store, world.blobs, written_before=now - ORPHAN_AGE):
            await world.blobs.delete(blob.key)
            world.observer.orphan_deleted(blob.key, blob.size_bytes, (now - blob.modified_at).total_seconds())
