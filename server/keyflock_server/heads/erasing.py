"""Heads that must go: from the table, from the store's files, from memory. Needs no head key.

So forget-me is kept also by a server that was started without keys and stores no heads any more.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import HeadErased
from keyflock_server.storage.door import Clock, Store

#: Between two attempts while a reader is in the way: each keeps writers waiting for a moment.
_TRY_AGAIN_AFTER: Final = timedelta(seconds=5)


class Erasing:
    """Erases, and goes on trying where a reader is in the way.

    Args:
        store: Where the rows are.
        clock: Gives now, aware UTC.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._must_scrub = False
        self._tried_at: datetime | None = None
        #: Told when heads were deleted.
        self.on_freed: Callable[[], None] = lambda: None
        #: Told of each owner whose head is gone.
        self.on_erased: Callable[[Owner], None] = lambda _owner: None

    async def start(self) -> None:
        """The first pass comes with the first tick."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def tick(self) -> None:
        """Finish what was left over."""
        now = self._clock()
        if self._must_scrub and (self._tried_at is None or now - self._tried_at >= _TRY_AGAIN_AFTER):
            self._tried_at = now
            self._must_scrub = not await self._store.heads.scrub()

    async def erase(self, population: PopulationName, owners: Sequence[Owner]) -> HeadErased:
        """These owners' heads are gone."""
        gone = await self._store.heads.delete(population, owners)
        if gone:
            self.on_freed()
        for owner in owners:
            self.on_erased(owner)
        is_scrubbed = await self._store.heads.scrub() if gone else True
        self._must_scrub = self._must_scrub or not is_scrubbed
        return HeadErased(heads=gone, is_scrubbed=is_scrubbed)

    def scrub_soon(self) -> None:
        """Something was overwritten, and what was there before must go from the files."""
        self._must_scrub = True
