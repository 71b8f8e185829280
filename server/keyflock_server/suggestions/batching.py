"""Questions that arrive while the network is at work wait for the next pass, and go through it together.

Nobody waits for company: where the network is idle, a question starts a pass at once. Under load the passes
grow by themselves, up to the largest batch that is compiled; beyond what a bounded number of passes can take,
questions are refused.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from keyflock_server.protocol.problems import ProblemCode, Refused

Q = TypeVar("Q")
A = TypeVar("A")


class Batching(Generic[Q, A]):
    """One queue before one worker.

    Args:
        work: Answers a batch, in its order; runs in a thread of its own.
        largest: Questions a pass, at most.
        waiting: Questions that may wait, at most.
        on_batch: Told the size of every pass.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[A]],
        *,
        largest: int,
        waiting: int,
        on_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._work = work
        self._largest = largest
        self._waiting = waiting
        self._on_batch = on_batch
        self._queue: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyflock-suggestions")

    async def ask(self, question: Q) -> A:
        """The answer.

        Raises:
            Refused: ``overloaded``; too many wait already.
        """
        if self._is_closed:
            raise _closed()
        if len(self._queue) >= self._waiting:
            raise Refused(ProblemCode.OVERLOADED, "Too many keyboards are asking at once.")
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._queue.append((question, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run(), name="suggestions")
        return await answer

    async def close(self) -> None:
        """End the thread after the pass at hand; whoever still waits is told to come back."""
        # Said in the event loop: between the worker's look at it and its next pass, nothing can be.
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(self._largest, len(self._queue)))]
            # A keyboard that hung up is not asked for.
            batch = [(question, answer) for question, answer in batch if not answer.done()]
            if not batch:
                continue
            questions = [question for question, _ in batch]
            try:
                if self._is_closed:
                    raise _closed()  # noqa: TRY301 - told to each caller, as any other failure
                self._on_batch(len(batch))
                found = await loop.run_in_executor(self._thread, self._work, questions)
                answered = list(zip(batch, found, strict=True))
            except Exception as error:  # noqa: BLE001 - each question's caller is told
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), one in answered:
                if not answer.done():
                    answer.set_result(one)


def _closed() -> Refused:
    return Refused(ProblemCode.NOT_READY, "The server is stopping.")
