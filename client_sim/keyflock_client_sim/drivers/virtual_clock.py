"""A virtual clock moves when a simulation says so; a server in the same process reads it too."""

from datetime import UTC, datetime, timedelta
from typing import Final

#: A midnight, so that hours of the day mean the same to phones and to the server.
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """A clock whose time only grows. Calling it returns the current time, aware UTC."""

    def __init__(self, epoch: datetime = EPOCH) -> None:
        self._epoch = epoch
        self._now_s = 0.0

    @property
    def now_s(self) -> float:
        """Return the seconds since its beginning."""
        return self._now_s

    def __call__(self) -> datetime:
        """Return the current time."""
        return self._epoch + timedelta(seconds=self._now_s)

    def advance_to(self, now_s: float) -> None:
        """Advance the clock.

        Edge cases:
            a time that is past -> stays
        """
        self._now_s = max(self._now_s, now_s)
