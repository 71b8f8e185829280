"""Work that many ask for at once: done once, and nobody's to take away."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SharedWork(Generic[K, V]):
    """Does what is asked for by its key, once for all who ask before it is done.

    Args:
        patience_s: From its beginning; who still waits then goes without, and who asks later does not wait.
    Guarantees:
        Whoever hangs up takes it from nobody: it goes on, also when nobody waits any more.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        #: Each with when patience with it ends, on the event loop's clock.
        self._under_way: dict[K, tuple[asyncio.Task[V], float]] = {}

    async def result(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V | None:
        """What ``work`` returns or raises; None: not in time, or it was given up."""
        now_s = asyncio.get_running_loop().time()
        if key not in self._under_way:
            task = asyncio.create_task(work())
            self._under_way[key] = task, now_s + self._patience_s
            task.add_done_callback(lambda done: self._ended(key, done))
        task, until_s = self._under_way[key]
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until_s - now_s))
        return task.result() if done and not task.cancelled() else None

    async def stop(self) -> None:
        """Give up what is under way."""
        tasks = [task for task, _ in self._under_way.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen: whoever waited has it, and whoever asks next finds out anew
