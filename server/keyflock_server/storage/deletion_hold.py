"""The deletion hold: while a backup copies blobs, nobody deletes one.

It is a lease in the database. Whoever deletes blobs reads it after the transaction that took the last row
away from them. So a blob that a row points to at any moment after the lease was taken is there until the
lease ends; what was not deleted meanwhile is an orphan, and is collected in time.

Source: Gray and Cheriton 1989, "Leases".
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Final, Self

from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.leases import LeaseRepository
from keyflock_server.storage.records import LeaseRecord, StoredBlob

#: The name of the lease.
DELETION_HOLD: Final = "backup"
#: How long it lasts unless renewed: longer than servers' clocks differ, and than a machine is suspended.
HOLD_S: Final = 300.0


class HoldLost(StorageError):
    """The hold ended before the backup did, so a blob of it may be gone. The backup is made again."""


class HoldTaken(StorageError):
    """Another backup of the same database is being made."""


async def is_held(leases: LeaseRepository, now: datetime) -> bool:
    """Return whether no blob may be deleted now.

    Edge cases:
        a lease that ends later than any that is taken now -> a wrong clock took it, and it holds nothing
    """
    latest = now + timedelta(seconds=2 * HOLD_S)
    return any(
        one.name == DELETION_HOLD and one.expires_at <= latest
        for one in await leases.held(DELETION_HOLD, now)
    )


class HoldingBlobStore:
    """A blob store that deletes nothing while there is a hold; all else is the blob store's own.

    Args:
        blobs: The blob store.
        leases: The leases of the blobs' database.
        clock: Returns the current time, aware UTC.
    """

    def __init__(self, blobs: BlobStore, leases: LeaseRepository, clock: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._leases = leases
        self._clock = clock
        #: The name of the blob store for messages.
        self.name = blobs.name
        self.put = blobs.put
        self.create = blobs.create
        self.get = blobs.get

    async def delete(self, key: str) -> None:
        """Delete a blob that no row points to any more, or leave it to the orphan collection.

        Raises:
            StorageError: the blob could not be deleted, or it is not known whether there is a hold.
        """
        if not await is_held(self._leases, self._clock()):
            await self._blobs.delete(key)

    def list_blobs(self) -> AsyncIterator[StoredBlob]:
        """List all blobs."""
        return self._blobs.list_blobs()


class DeletionHold:
    """A hold that renews itself; an async context manager for whoever makes a backup.

    Args:
        leases: The leases of the database.
        holder: A new id.
        clock: Returns the current time, aware UTC.
    """

    def __init__(self, leases: LeaseRepository, holder: str, clock: Callable[[], datetime]) -> None:
        self._leases = leases
        self._holder = holder
        self._clock = clock
        self._epoch = 0
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take the hold; raises HoldTaken."""
        lease = await self._acquire()
        if lease.holder != self._holder:
            raise HoldTaken(
                "Another backup of this database is being made, or one was killed a short while ago: try "
                f"again after {lease.expires_at:%H:%M:%S} UTC."
            )
        self._epoch = lease.epoch
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Release the hold; one that cannot be released ends by itself."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        with contextlib.suppress(StorageError):
            await self._leases.release(DELETION_HOLD, self._holder)

    async def require(self) -> None:
        """Renew the hold; raises HoldLost if it has ended at any time since it was taken."""
        held = await self._leases.held(DELETION_HOLD, self._clock())
        if not any(one.holder == self._holder and one.epoch == self._epoch for one in held):
            raise HoldLost("The backup was interrupted for minutes, so blobs may be gone: make it again.")
        await self._acquire()

    async def _acquire(self) -> LeaseRecord:
        return await self._leases.acquire(DELETION_HOLD, self._holder, HOLD_S, self._clock())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(HOLD_S / 6)
            with contextlib.suppress(StorageError):  # HoldLost, or the next one may succeed
                await self.require()
