"""Measures how far this process is beyond its capacity, by requests in flight and the event loop's lag."""

from collections.abc import Callable
from typing import Final

from keyflock_server.rounds.pacing import overload

#: Weight of the newest measurement: one slow pass does not widen return windows much, a slow second does.
_NEWEST: Final = 0.2


class LoadMeter:
    """Measures the load, by which return windows are widened.

    Args:
        capacity: Maximum number of requests in flight at once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lag_s = 0.0
        #: Returns the number of requests being read or answered now.
        self.in_flight: Callable[[], int] = int

    def record_lag(self, lag_s: float) -> None:
        """Record how late the event loop was."""
        self._lag_s += _NEWEST * (max(0.0, lag_s) - self._lag_s)

    def load(self) -> float:
        """Return the load: 0 within the capacity; return windows are widened by a factor of 1 + load."""
        return overload(self.in_flight(), self._capacity, self._lag_s)
