"""A few threads for reading what phones send as their personal models, and a bounded line before them.

Reading one takes up to some ten milliseconds of a processor and a few megabytes. The event loop's own threads
would take any number at once.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused

T = TypeVar("T")

#: Read at once; they hold the interpreter's lock half of the time.
THREADS: Final = 2
#: Being read or waiting for it: some tenths of a second's work.
MAX_PENDING: Final = 32


class ReadingThreads:
    """Runs functions away from the event loop, a few at once.

    Args:
        threads: Run at once.
        max_pending: Running or waiting; more are told to come back.
    """

    def __init__(self, threads: int = THREADS, max_pending: int = MAX_PENDING) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="keyflock-heads")
        self._places = threading.BoundedSemaphore(max_pending)

    async def run(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, or raises.

        Raises:
            Refused: ``overloaded``; too many are waiting.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(
                ProblemCode.OVERLOADED,
                "Too many personal models are being read at once; come back later.",
                ReturnWindow(min_s=5.0, max_s=30.0),
            )
        try:
            running = self._threads.submit(function)
        except BaseException:
            self._places.release()
            raise
        # The place is free when the thread is, also where nobody waits for it any more.
        running.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(running)

    async def start(self) -> None:
        """The threads start when they are needed."""

    async def tick(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Let the threads end after what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)
