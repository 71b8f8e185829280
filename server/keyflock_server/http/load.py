"""How far this process is beyond its capacity: requests in flight, and how late the event loop is."""

from collections.abc import Callable
from typing import Final

from keyflock_server.rounds.pacing import overload

#: Weight of the newest measurement: one slow pass does not send phones away, a slow second does.
_NEWEST: Final = 0.2


class LoadMeter:
    """What return windows are widened by.

    Args:
        capacity: Requests that may be in flight at once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lag_s = 0.0
        #: Requests being read or answered now.
        self.in_flight: Callable[[], int] = int

    def saw_lag(self, lag_s: float) -> None:
        """The event loop was so late."""
        self._lag_s += _NEWEST * (max(0.0, lag_s) - self._lag_s)

    def load(self) -> float:
        """0 within the capacity; the windows are widened by 1 + that."""
        return overload(self.in_flight(), self._capacity, self._lag_s)
