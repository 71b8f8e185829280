"""Dynamic batching: requests that arrive during a pass over the network go through the next pass together.

A request never waits for others: when the network is idle, it starts a pass at once. Under load the batches
grow by themselves, up to the largest size that is compiled; beyond a bounded number of waiting requests,
further ones are refused.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.log_context import shared_task

Q = TypeVar("Q")
A = TypeVar("A")


class DynamicBatcher(Generic[Q, A]):
    """A queue of requests in front of one worker thread.

    Args:
        work: Returns the answers of a batch in its order; runs in a thread of its own.
        max_batch_size: Maximum number of requests per batch.
        max_waiting: Maximum number of waiting requests.
        on_batch: Called with the size of every batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[A]],
        *,
        max_batch_size: int,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._work = work
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._queue: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyflock-suggestions")

    async def submit(self, question: Q) -> A:
        """Return the answer to one request.

        Raises:
            ApiError: ``overloaded``; too many wait already.
        """
        if self._is_closed:
            raise _stopping_error()
        if len(self._queue) >= self._max_waiting:
            raise ApiError(ProblemCode.OVERLOADED, "Too many keyboards are asking at once.")
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._queue.append((question, answer))
        if self._worker is None or self._worker.done():
            self._worker = shared_task(self._run(), "suggestions")
        return await answer

    async def close(self) -> None:
        """End the thread after the current pass; callers that still wait get an error."""
        # Set in the event loop, so it cannot change between the worker's check and its next pass.
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(self._max_batch_size, len(self._queue)))]
            # Requests whose callers have gone away are dropped.
            batch = [(question, answer) for question, answer in batch if not answer.done()]
            if not batch:
                continue
            questions = [question for question, _ in batch]
            try:
                if self._is_closed:
                    raise _stopping_error()  # noqa: TRY301 - passed to each caller, like any other failure
                self._on_batch(len(batch))
                found = await loop.run_in_executor(self._thread, self._work, questions)
                answered = list(zip(batch, found, strict=True))
            except Exception as error:  # noqa: BLE001 - passed to each caller
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), one in answered:
                if not answer.done():
                    answer.set_result(one)


def _stopping_error() -> ApiError:
    return ApiError(ProblemCode.NOT_READY, "The server is stopping.")
