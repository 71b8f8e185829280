"""The loop that drives deadlines, flushes and closing rounds, and the check that it still runs."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from keyflock_server.telemetry.metrics import Metrics

#: A pass may wait for a server step over the whole model; past this something is stuck.
STALL_S: Final = 60.0


class Heartbeat:
    """Calls ``tick`` repeatedly, never twice at once.

    Args:
        tick: Runs one pass.
        pause_s: The pause between two passes.
        metrics: Shows the duration of a pass.
        monotonic: A clock in seconds that never goes back.
        on_lag: Called after each pause with how much later than asked the event loop resumed, in seconds.
    """

    def __init__(
        self,
        tick: Callable[[], Awaitable[None]],
        pause_s: float,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        on_lag: Callable[[float], None] | None = None,
    ) -> None:
        self._tick = tick
        self._pause_s = pause_s
        self._metrics = metrics
        self._monotonic = monotonic
        self._on_lag = on_lag
        self._last_at_s = monotonic()
        self._stop_asked = asyncio.Event()

    @property
    def age_s(self) -> float:
        """Return the seconds since the last pass succeeded."""
        return self._monotonic() - self._last_at_s

    @property
    def is_stalled(self) -> bool:
        """Return whether the loop hangs."""
        return self.age_s > STALL_S

    async def run(self) -> None:
        """Run passes until ``stop`` is called.

        Guarantees:
            A pass that raises ends the loop with its error; the caller ends the process, because a server
            that answers phones and closes no rounds is worse than none.
        """
        self._last_at_s = self._monotonic()
        while not self._stop_asked.is_set():
            started = self._monotonic()
            await self._tick()
            self._last_at_s = self._monotonic()
            self._metrics.tick_duration_s.observe(self._last_at_s - started)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._stop_asked.wait()
            lag_s = self._monotonic() - self._last_at_s - self._pause_s
            if not self._stop_asked.is_set():  # a pause that was cut short says nothing of the loop
                self._metrics.event_loop_lag_s.observe(max(0.0, lag_s))
            if self._on_lag is not None:
                self._on_lag(lag_s)

    def stop(self) -> None:
        """End the loop after the current pass, which is never cut off in the middle of a transaction."""
        self._stop_asked.set()
