"""Single flight: concurrent calls for one key share one piece of work, which no caller can cancel."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from keyflock_server.telemetry.log_context import shared_task

K = TypeVar("K")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs the work for a key once for all callers that ask before it is done.

    Args:
        max_wait_s: Wait from the work's beginning; then callers get None, and later ones do not wait. None
            waits until the work is done.
    Guarantees:
        A cancelled caller does not stop the work for the others: it goes on even when no caller waits.
    """

    def __init__(self, max_wait_s: float | None) -> None:
        self._max_wait_s = math.inf if max_wait_s is None else max_wait_s
        #: Each key's task, and the end of the wait for it on the event loop's clock.
        self._in_flight: dict[K, tuple[asyncio.Task[V], float]] = {}

    async def result(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V | None:
        """Return or raise what ``work`` does; None: it was not in time, or was cancelled."""
        now_s = asyncio.get_running_loop().time()
        if key not in self._in_flight:
            task = shared_task(work())
            self._in_flight[key] = task, now_s + self._max_wait_s
            task.add_done_callback(lambda done: self._discard(key, done))
        task, until_s = self._in_flight[key]
        timeout_s = None if math.isinf(until_s) else max(0.0, until_s - now_s)
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        return task.result() if done and not task.cancelled() else None

    async def stop(self) -> None:
        """Cancel the work in flight."""
        tasks = [task for task, _ in self._in_flight.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _discard(self, key: K, task: asyncio.Task[V]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # mark as retrieved: callers that waited have it, and the next call tries again
