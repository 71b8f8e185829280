"""Logs a repeated failure once a minute, so that an outage does not fill a disk with one traceback."""

import time
from collections.abc import Callable
from typing import Final

#: The same failure is logged again after this time.
LOG_INTERVAL_S: Final = 60.0


class LogThrottle:
    """Remembers which failures were logged recently.

    Args:
        clock: A clock in seconds that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When each failure was logged last, and how often it was suppressed since.
        self._logged: dict[tuple[str, str, type[Exception] | None], tuple[float, int]] = {}

    def suppressed_count(self, what: str, error: Exception | None = None, of: str = "") -> int | None:
        """Return how many equal failures were suppressed since the last logged one; None: do not log now.

        Args:
            what: What failed.
            error: Failures with errors of the same type are equal; None if there is no error.
            of: The task, part or port that failed.
        """
        alike, now_s = (what, of, None if error is None else type(error)), self._clock()
        told_at_s, suppressed = self._logged.get(alike, (-float("inf"), 0))
        if now_s - told_at_s < LOG_INTERVAL_S:
            self._logged[alike] = (told_at_s, suppressed + 1)
            return None
        self._logged[alike] = (now_s, 0)
        return suppressed
