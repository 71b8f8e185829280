"""Guesses of a credential are answered late, and never keep out whoever has the right one.

The delay grows with each failure, whoever it comes from: addresses are neither kept nor told apart, for an
attacker has many. What must not follow is that failures lock the operator out: a right credential never comes
here. So few failures wait at once, and those beyond are refused without waiting.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.repeats import Repeats

FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 5.0
MAX_WAITING: Final = 16
#: After so long without a failure the delay begins anew.
FORGOTTEN_AFTER_S: Final = 300.0

_log: Final = logger("keyflock.operator")


class FailedAttempts:
    """Slows down who guesses the admin token.

    Args:
        metrics: Where failures are counted.
        sleep: Waits so many seconds.
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
        self._repeats = Repeats(monotonic)
        self._delay_s = 0.0
        self._last_at_s = monotonic()
        self._waiting = 0

    async def failed(self) -> None:
        """Count a failure, and return when it may be answered.

        Raises:
            Refused: fault of the client; ``too_many_requests`` when enough failures wait already.
        """
        is_refused = self._waiting >= MAX_WAITING
        self._failures.labels("refused" if is_refused else "delayed").inc()
        if (untold := self._repeats.untold("admin authentication")) is not None:
            _log.warning("a call showed no admin token, or a wrong one", repeated=untold)
        delay_s = self._next_delay_s()
        if is_refused:
            raise Refused(
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
