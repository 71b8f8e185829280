"""Devices that never reported and do not come back are deleted: no operator has to prune them."""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.storage.retention import UNPROVEN_RETENTION, UnprovenDevices

#: Time between the beginnings of two passes over the devices.
_PASS_INTERVAL: Final = timedelta(hours=1)
#: Devices per transaction; there is one a tick, so that rounds are driven meanwhile.
_BATCH_SIZE: Final = 1_000


class UnprovenDeletion:
    """Deletes unproven devices in small batches; the leader calls it at every tick."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        #: When this pass began; None before the first.
        self._began_at: datetime | None = None
        self._is_done = False
        self._deleted = 0

    async def delete_due(self) -> None:
        """Delete the next batch, if a pass is under way or due.

        Raises:
            StorageError: the batch was not deleted; the next call tries again.
        """
        now = self._deps.clock()
        if self._began_at is None or not timedelta(0) <= now - self._began_at < _PASS_INTERVAL:
            self._began_at, self._is_done, self._deleted = now, False, 0
        if self._is_done:
            return
        unproven = UnprovenDevices(seen_before=self._began_at - UNPROVEN_RETENTION, now=now)
        deleted = await self._deps.store.retention.delete_unproven(unproven, _BATCH_SIZE)
        self._deleted += deleted
        self._is_done = deleted < _BATCH_SIZE
        if self._is_done and self._deleted:
            self._deps.observer.unproven_devices_deleted(self._deleted)
