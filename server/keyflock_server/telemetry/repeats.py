"""What fails at every pass is told once a minute: an outage must not fill a disk with one traceback."""

import time
from collections.abc import Callable
from typing import Final

#: The same failure is told again after so long.
TOLD_EVERY_S: Final = 60.0


class Repeats:
    """Remembers which failures were told of late.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When each was told last, and how often it has come since.
        self._told: dict[tuple[str, str, type[Exception] | None], tuple[float, int]] = {}

    def untold(self, what: str, error: Exception | None = None, of: str = "") -> int | None:
        """Whether to tell of a failure now: how many like it were not told since the last; None: not now.

        Args:
            what: What failed.
            error: Failures with errors of the same type are alike; None: there is none to tell them apart.
            of: Which task's, part's and so on.
        """
        alike, now_s = (what, of, None if error is None else type(error)), self._clock()
        told_at_s, untold = self._told.get(alike, (-float("inf"), 0))
        if now_s - told_at_s < TOLD_EVERY_S:
            self._told[alike] = (told_at_s, untold + 1)
            return None
        self._told[alike] = (now_s, 0)
        return untold
