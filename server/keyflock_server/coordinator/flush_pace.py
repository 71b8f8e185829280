"""The pace of a task's flushes: under load, reports gather for an interval that grows with a flush's cost.

A flush costs the same for four reports as for four hundred: the whole sum is written. So the first flush of a
quiet task begins at once, and the next one an interval later, in which all that comes shares its cost. On a
simulation's clock, and where no report may wait, there is no interval.
"""

from dataclasses import dataclass
from typing import Final

#: The interval as a multiple of the time on the CPU in which a sum is taken, added and serialised. Writing it
#: and committing the transaction cost about three times as much again: all of it takes a tenth of the time.
_INTERVAL_RATIO: Final = 40.0
#: The interval of the smallest model: a transaction takes some milliseconds of CPU, whatever the model.
_MIN_INTERVAL_S: Final = 0.05
#: The longest interval as a share of the time that a report may wait for its acknowledgement.
_MAX_WAIT_SHARE: Final = 0.1


def flush_interval_s(compute_s: float, ack_wait_s: float) -> float:
    """Return the time from the beginning of a flush to that of the next one.

    Args:
        compute_s: Time on the CPU in which the last batch was taken, added to the sum and serialised.
        ack_wait_s: How long a report may wait for its acknowledgement; 0 never waits.
    Guarantees:
        The interval is at most a tenth of ``ack_wait_s``.
    """
    return min(max(_MIN_INTERVAL_S, _INTERVAL_RATIO * compute_s), _MAX_WAIT_SHARE * ack_wait_s)


@dataclass(slots=True)
class FlushPace:
    """When a task's next flush may begin. Instants are of the event loop's clock."""

    #: The interval after the last flush.
    interval_s: float = 0.0
    #: When the interval is over.
    next_at_s: float = 0.0

    def rest_s(self, now_s: float) -> float:
        """Return how long the next flush has to wait; 0 or less: it may begin."""
        return self.next_at_s - now_s

    def flushed(self, began_at_s: float, interval_s: float) -> None:
        """Record a flush that began then, and the interval that follows it."""
        self.interval_s, self.next_at_s = interval_s, began_at_s + interval_s
