"""Limits the size of all stored personal models together, so that phones cannot fill the disk.

Each owner has one model per population, of at most ``MAX_STATE_BYTES``, but the number of owners is not
limited. The store knows the sum; each process adds what it stores itself and refreshes the sum every minute,
so several processes may exceed the limit by what the others store in a minute.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.clock import Clock
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: The time between two refreshes of the sum.
REFRESH_INTERVAL: Final = timedelta(minutes=1)
_log: Final = logger("keyflock.heads")


class StoredModelQuota:
    """Reserves space for a model that is about to be stored, or refuses it.

    Args:
        store: Knows the sum.
        max_bytes: Maximum size of all stored personal models, encrypted.
        clock: Returns the current time, aware UTC.
        metrics: Shows the sum.
    """

    def __init__(self, store: RecordStore, max_bytes: int, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._clock = clock
        self._metrics = metrics
        metrics.stored_model_limit_bytes.set(max_bytes)
        #: The sum at the last refresh, what this process has stored since, and what it is about to store.
        self._sum_bytes = 0
        self._since_bytes = 0
        self._pending_bytes = 0
        self._refreshed_at: datetime | None = None
        self._logged_at: datetime | None = None

    async def start(self) -> None:
        """Refresh the sum."""
        await self._refresh()

    async def tick(self) -> None:
        """Refresh the sum once a minute."""
        if self._is_older_than(REFRESH_INTERVAL):
            await self._refresh()

    async def stop(self) -> None:
        """Do nothing; there is nothing to release."""

    @asynccontextmanager
    async def reserve(self, size_bytes: int, replaced_bytes: int) -> AsyncIterator[None]:
        """Reserve space while a model of this size is stored in place of another.

        Guarantees:
            A model that is not larger than the one it replaces is never refused. If the body of the ``with``
            statement raises, no space is taken.
        Raises:
            ApiError: ``quota_exceeded``, fault of the operator; the limit would be exceeded.
        """
        growth = max(0, size_bytes - replaced_bytes)
        if growth and self._bytes + growth > self._max_bytes:
            # Models that were deleted meanwhile, here or elsewhere, have freed space.
            if self._is_older_than(timedelta(seconds=1)):
                await self._refresh()
            if self._bytes + growth > self._max_bytes:
                raise self._quota_exceeded()
        self._pending_bytes += growth
        try:
            yield
            self._since_bytes += growth
        finally:
            self._pending_bytes -= growth
            self._metrics.stored_model_bytes.set(self._bytes)

    def freed(self) -> None:
        """Refresh the sum before the next refusal, because something was deleted."""
        self._refreshed_at = None

    @property
    def _bytes(self) -> int:
        return self._sum_bytes + self._since_bytes + self._pending_bytes

    def _is_older_than(self, age: timedelta) -> bool:
        """Return whether the last refresh is older than ``age``; the clock may have been set back."""
        return self._refreshed_at is None or not timedelta(0) <= self._clock() - self._refreshed_at < age

    async def _refresh(self) -> None:
        asked_at, self._since_bytes = self._clock(), 0
        # What is stored during this query may be counted twice until the next refresh, but never not at all.
        self._sum_bytes = await self._store.personal_models.stored_bytes()
        self._refreshed_at = asked_at
        self._metrics.stored_model_bytes.set(self._bytes)

    def _quota_exceeded(self) -> ApiError:
        now = self._clock()
        if self._logged_at is None or not timedelta(0) <= now - self._logged_at < REFRESH_INTERVAL:
            self._logged_at = now
            _log.warning(
                "stored personal models have reached max_stored_model_bytes; more are refused",
                stored_bytes=self._bytes,
                max_bytes=self._max_bytes,
            )
        return ApiError(
            ProblemCode.QUOTA_EXCEEDED,
            "The space set aside for personal models is full; the one that is stored for this user stays.",
        )
