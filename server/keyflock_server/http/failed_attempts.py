"""Delays the responses to wrong credentials, without ever delaying a caller with the right one.

The delay grows with each failure of any caller: addresses are neither stored nor distinguished, because an
attacker has many. Failures cannot lock the operator out, because a call with the right credential never gets
here. Only a few failures wait at once; further ones are refused without waiting.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 5.0
MAX_WAITING: Final = 16
#: After this long without a failure the delay starts anew.
FORGOTTEN_AFTER_S: Final = 300.0

_log: Final = logger("keyflock.operator")


class FailedAttempts:
    """Slows down callers that guess a token.

    Args:
        metrics: Counts failures.
        sleep: Waits for a number of seconds.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = metrics.admin_authentication_failures
        self._sleep = sleep
        self._monotonic = monotonic
        self._log_throttle = LogThrottle(monotonic)
        self._delay_s = 0.0
        self._last_at_s = monotonic()
        self._waiting = 0

    async def delay_failure(self) -> None:
        """Count a failure, and wait until it may be answered.

        Raises:
            ApiError: fault of the client; ``too_many_requests`` when enough failures wait already.
        """
        is_refused = self._waiting >= MAX_WAITING
        self._failures.labels("refused" if is_refused else "delayed").inc()
        if (suppressed := self._log_throttle.suppressed_count("admin authentication")) is not None:
            _log.warning("a call showed no token of an operator, or a wrong one", repeated=suppressed)
        delay_s = self._next_delay_s()
        if is_refused:
            raise ApiError(
                ProblemCode.TOO_MANY_REQUESTS,
                "Too many calls with a wrong token wait for their answer.",
                ReturnWindow(min_s=MAX_DELAY_S, max_s=2 * MAX_DELAY_S),
            )
        self._waiting += 1
        try:
            await self._sleep(delay_s)
        finally:
            self._waiting -= 1

    def _next_delay_s(self) -> float:
        now_s = self._monotonic()
        if now_s - self._last_at_s > FORGOTTEN_AFTER_S:
            self._delay_s = 0.0
        self._last_at_s = now_s
        self._delay_s = min(MAX_DELAY_S, max(FIRST_DELAY_S, 2 * self._delay_s))
        return self._delay_s
