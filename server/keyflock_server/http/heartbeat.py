"""The loop that drives deadlines, flushes and closing rounds, and the proof that it still beats."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from keyflock_server.telemetry.metrics import Metrics

#: A pass may wait for a server step over the whole model; past this something is stuck.
STALL_S: Final = 60.0


class Heartbeat:
    """Calls ``beat`` again and again, never twice at once.

    Args:
        beat: One pass.
        pause_s: Between two passes.
        metrics: Where the duration of a pass is shown.
        monotonic: A clock in seconds that never goes back.
        saw_lag: Is told after each pause how much later than asked the event loop came back.
    """

    def __init__(
        self,
        beat: Callable[[], Awaitable[None]],
        pause_s: float,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        saw_lag: Callable[[float], None] | None = None,
    ) -> None:
        self._beat = beat
        self._pause_s = pause_s
        self._metrics = metrics
        self._monotonic = monotonic
        self._saw_lag = saw_lag
        self._last_at_s = monotonic()
        self._stop_asked = asyncio.Event()

    @property
    def age_s(self) -> float:
        """Seconds since the last pass ended well."""
        return self._monotonic() - self._last_at_s

    @property
    def is_stalled(self) -> bool:
        """Whether the loop hangs."""
        return self.age_s > STALL_S

    async def run(self) -> None:
        """Beat until told to stop.

        Guarantees:
            A pass that raises ends the loop with its error; the caller takes the process down, for a server
            that answers phones and closes no rounds is worse than none.
        """
        self._last_at_s = self._monotonic()
        while not self._stop_asked.is_set():
            started = self._monotonic()
            await self._beat()
            self._last_at_s = self._monotonic()
            self._metrics.tick_duration_s.observe(self._last_at_s - started)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._stop_asked.wait()
            if self._saw_lag is not None:
                self._saw_lag(self._monotonic() - self._last_at_s - self._pause_s)

    def stop(self) -> None:
        """End the loop after the pass that it is in: a pass is never cut in the middle of a transaction."""
        self._stop_asked.set()
