"""Deletes personal models from the table, from the store's files and from memory. It needs no key.

So forget-me works also on a server that was started without keys and stores no personal models any more.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import HeadErased
from keyflock_server.storage.clock import Clock
from keyflock_server.storage.interfaces.record_store import RecordStore

#: The pause between two attempts to scrub while a reader blocks it; each attempt delays writers a moment.
_RETRY_AFTER: Final = timedelta(seconds=5)


class PersonalModelEraser:
    """Deletes personal models, and tries again where a reader blocks the scrubbing of their bytes.

    Args:
        store: Stores the rows.
        clock: Returns the current time, aware UTC.
    """

    def __init__(self, store: RecordStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._must_scrub = False
        self._tried_at: datetime | None = None
        #: Called when models were deleted.
        self.on_freed: Callable[[], None] = lambda: None
        #: Called with each owner whose model was deleted.
        self.on_erased: Callable[[Owner], None] = lambda _owner: None

    async def start(self) -> None:
        """Do nothing; the first pass comes with the first tick."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to release."""

    async def tick(self) -> None:
        """Scrub the bytes of deleted models that are still in the store's files."""
        now = self._clock()
        if self._must_scrub and (self._tried_at is None or now - self._tried_at >= _RETRY_AFTER):
            self._tried_at = now
            self._must_scrub = not await self._store.personal_models.scrub()

    async def erase(self, population: PopulationName, owners: Sequence[Owner]) -> HeadErased:
        """Delete these owners' models."""
        deleted = await self._store.personal_models.delete(population, owners)
        if deleted:
            self.on_freed()
        for owner in owners:
            self.on_erased(owner)
        is_scrubbed = await self._store.personal_models.scrub() if deleted else True
        self._must_scrub = self._must_scrub or not is_scrubbed
        return HeadErased(heads=deleted, is_scrubbed=is_scrubbed)

    def scrub_soon(self) -> None:
        """Scrub the store's files with the next tick, because something was overwritten."""
        self._must_scrub = True
