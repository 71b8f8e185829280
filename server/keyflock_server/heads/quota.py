"""How much all stored personal models may take together, so that no number of phones fills the disk.

One owner has one in each population, of at most ``MAX_STATE_BYTES``; how many owners there are is the phones'
to say. The sum is the store's; each process adds what it stores itself and asks for the sum every minute, so
that several may go beyond the limit by what the others store in a minute.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.door import Clock, Store
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: Between two times that the store is asked.
REFRESH_EVERY: Final = timedelta(minutes=1)
_log: Final = logger("keyflock.heads")


class StoredModelQuota:
    """Makes room for what is about to be stored, or refuses it.

    Args:
        store: Knows the sum.
        max_bytes: Of all stored personal models, sealed as they are.
        clock: Gives now, aware UTC.
        metrics: Where the sum is shown.
    """

    def __init__(self, store: Store, max_bytes: int, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._clock = clock
        self._metrics = metrics
        #: The sum when it was asked for last, and what this process has stored since then or is about to.
        self._sum_bytes = 0
        self._since_bytes = 0
        self._pending_bytes = 0
        self._asked_at: datetime | None = None
        self._told_at: datetime | None = None

    async def start(self) -> None:
        """Ask for the sum."""
        await self._refresh()

    async def tick(self) -> None:
        """Ask for the sum again, once a minute."""
        if self._is_older_than(REFRESH_EVERY):
            await self._refresh()

    async def stop(self) -> None:
        """Nothing is held."""

    @asynccontextmanager
    async def room_for(self, size_bytes: int, replaced_bytes: int) -> AsyncIterator[None]:
        """Within it, something of this size is stored in place of something else.

        Guarantees:
            What is not larger than what it replaces is never refused. What raises within takes no room.
        Raises:
            Refused: ``quota_exceeded``, fault of the operator; all stored models would take too much.
        """
        growth = max(0, size_bytes - replaced_bytes)
        if growth and self._bytes + growth > self._max_bytes:
            # What was deleted meanwhile, here or elsewhere, has made room.
            if self._is_older_than(timedelta(seconds=1)):
                await self._refresh()
            if self._bytes + growth > self._max_bytes:
                raise self._full()
        self._pending_bytes += growth
        try:
            yield
            self._since_bytes += growth
        finally:
            self._pending_bytes -= growth
            self._metrics.stored_model_bytes.set(self._bytes)

    def freed(self) -> None:
        """Something was deleted: the sum is asked for again when it matters."""
        self._asked_at = None

    @property
    def _bytes(self) -> int:
        return self._sum_bytes + self._since_bytes + self._pending_bytes

    def _is_older_than(self, age: timedelta) -> bool:
        """Whether the sum was asked for so long ago, by a clock that may have been set back."""
        return self._asked_at is None or not timedelta(0) <= self._clock() - self._asked_at < age

    async def _refresh(self) -> None:
        asked_at, self._since_bytes = self._clock(), 0
        # What is stored while this is answered may be counted twice, until the next time; never not at all.
        self._sum_bytes = await self._store.heads.stored_bytes()
        self._asked_at = asked_at
        self._metrics.stored_model_bytes.set(self._bytes)

    def _full(self) -> Refused:
        now = self._clock()
        if self._told_at is None or not timedelta(0) <= now - self._told_at < REFRESH_EVERY:
            self._told_at = now
            _log.warning(
                "stored personal models have reached max_stored_model_bytes; more are refused",
                stored_bytes=self._bytes,
                max_bytes=self._max_bytes,
            )
        return Refused(
            ProblemCode.QUOTA_EXCEEDED,
            "The space set aside for personal models is full; the one that is stored for this user stays.",
        )
