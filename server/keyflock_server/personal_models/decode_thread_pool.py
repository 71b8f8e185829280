"""A thread pool that decodes the personal models that phones send, with a bounded queue.

Decoding one takes up to about ten milliseconds of CPU and a few megabytes. The event loop's own threads would
queue any number at once.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode

T = TypeVar("T")

#: Number of threads; they hold the interpreter's lock half of the time.
THREADS: Final = 2
#: Maximum number of models being decoded or waiting: some tenths of a second of work.
MAX_PENDING: Final = 32


class DecodeThreadPool:
    """Runs functions away from the event loop, a few at once.

    Args:
        threads: Number of threads.
        max_pending: Maximum number of calls running or waiting; further ones are refused.
    """

    def __init__(self, threads: int = THREADS, max_pending: int = MAX_PENDING) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="keyflock-heads")
        self._slots = threading.BoundedSemaphore(max_pending)

    async def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a thread, and return its result or raise its error.

        Raises:
            ApiError: ``overloaded``; too many are waiting.
        """
        if not self._slots.acquire(blocking=False):
            raise ApiError(
                ProblemCode.OVERLOADED,
                "Too many personal models are being read at once; come back later.",
                ReturnWindow(min_s=5.0, max_s=30.0),
            )
        try:
            running = self._threads.submit(function)
        except BaseException:
            self._slots.release()
            raise
        # The slot is freed when the thread finishes, also if the caller was cancelled.
        running.add_done_callback(lambda _: self._slots.release())
        return await asyncio.wrap_future(running)

    async def start(self) -> None:
        """Do nothing; the threads start when they are needed."""

    async def tick(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Let the threads end after the calls that they are running."""
        self._threads.shutdown(wait=False, cancel_futures=True)
