"""Numeric work runs on threads of its own, so that the event loop never waits for it.

There is one queue. A thread works it off, and the results that are ready together reach the event loop
together: under load a call costs neither a wake-up of the loop nor one of the thread. A result that nobody is
in a hurry for waits for others while more work is queued.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: What is called with the result of a call, or with its error.
Then = Callable[[Any, BaseException | None], None]


#: Maximum number of threads that decode reports: more would wait for the interpreter and the event loop.
_MAX_LANES: Final = 2
#: Number of results that wait for each other at most while more work is queued.
_MAX_WAITING: Final = 16


def lanes_for_this_machine() -> int:
    """Return the number of threads that decode reports on this process's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MAX_LANES, cores)


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    then: Then
    loop: asyncio.AbstractEventLoop
    is_urgent: bool
    result: Any = None
    error: BaseException | None = None


class _Results:
    """Results on their way to the event loop."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._is_delivery_due = False

    def add(self, call: _Call) -> None:
        """Keep the result of a call until the next delivery; any thread may call this."""
        self._calls.append(call)

    def are_many(self) -> bool:
        """Return whether so many results wait that they wait for no more."""
        return len(self._calls) >= _MAX_WAITING

    def deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop take what is ready; any thread may call this."""
        # The loop resets the flag before it looks: what was appended before that is delivered.
        if not self._is_delivery_due:
            self._is_delivery_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_delivery_due = False
        while self._calls:
            call = self._calls.popleft()
            try:
                call.then(call.result, call.error)
            except BaseException:
                # The loop reports the slip; the other results must not be lost with it.
                call.loop.call_soon(self._deliver)
                raise


class ComputeThread:
    """Runs functions away from the event loop that submits them; all calls must come from one loop.

    Args:
        lanes: The number of threads. With one, the functions run one after the other, in their order; with
            more, several run at the same time, so that those that share state need a lock of their own.
        name: What the threads' names begin with.
    Guarantees:
        A function that was submitted runs, even if nobody waits for its result any more.
    """

    def __init__(self, lanes: int = 1, name: str = "keyflock-numbers") -> None:
        self._lanes: Final = lanes
        self._name: Final = name
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._results = _Results()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        # The threads hold no reference to this object, so they end with it where nobody closes it.
        weakref.finalize(self, _end, self._queue, lanes)

    def submit(self, then: Then, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run ``function`` on a thread, then ``then`` on the event loop, later where more work is queued.

        Args:
            then: Called with the result and None, or with None and the error.
            function: The work.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        self._put(lambda: function(*args, **kwargs), then, is_urgent=False)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return or raise what ``function`` does."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(lambda: function(*args, **kwargs), partial(settle, future), is_urgent=True)
        return await future

    def end(self) -> None:
        """Take no more work. Only the loop calls this, as it alone submits: so no work comes too late."""
        self._is_closed = True
        _end(self._queue, self._lanes)

    def join(self) -> None:
        """Wait until all work that was submitted before ``end`` is finished; any thread may wait."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End the threads, and wait for them."""
        self.end()
        self.join()

    def _put(self, function: Callable[[], Any], then: Then, *, is_urgent: bool) -> None:
        if self._is_closed:
            raise RuntimeError("the compute threads have ended")
        if not self._threads:
            self._start()
        self._queue.put(_Call(function, then, asyncio.get_running_loop(), is_urgent))

    def _start(self) -> None:
        for number in range(self._lanes):
            # Daemons, so that a process that is told to end does not wait for minutes of work.
            thread = threading.Thread(
                target=_work,
                args=(self._queue, self._results),
                name=f"{self._name}-{number}",
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)


def settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:  # noqa: ANN401 - whatever was returned
    """Give a future its result or its error, unless whoever waited for it was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _work(queue: "SimpleQueue[_Call | None]", results: _Results) -> None:
    loop = None
    while (call := queue.get()) is not None:
        try:
            call.result = call.function()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
            call.error = error
        results.add(call)
        # This looks at the queue only now: while it is not empty, a result comes after this one, and whoever
        # has that one looks again.
        if call.is_urgent or queue.empty() or results.are_many():
            results.deliver(call.loop)
        loop = call.loop
        del call  # an idle thread holds no report
    if loop is not None:
        results.deliver(loop)  # the queue was not empty, but this was its end


def _end(queue: "SimpleQueue[_Call | None]", lanes: int) -> None:
    for _ in range(lanes):
        queue.put(None)
