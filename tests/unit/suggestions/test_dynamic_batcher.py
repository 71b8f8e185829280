import asyncio
import threading
from collections.abc import Sequence

import pytest

from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.dynamic_batcher import DynamicBatcher


class Worker:
    """Doubles numbers, when its gate is open; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.gate.wait(10.0)
        self.batches.append(list(questions))
        if 13 in questions:
            raise ValueError("no thirteen here")
        if 14 in questions:
            return []
        return [2 * one for one in questions]


def batcher_of(worker: Worker, waiting: int = 100) -> DynamicBatcher[int, int]:
    return DynamicBatcher(worker, max_batch_size=4, max_waiting=waiting)


async def test_a_question_alone_is_a_batch_at_once() -> None:
    worker = Worker()

    assert await batcher_of(worker).submit(21) == 42
    assert worker.batches == [[21]]


async def test_what_comes_meanwhile_goes_together() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker)
    asked = [asyncio.create_task(batcher.submit(one)) for one in range(6)]
    await asyncio.sleep(0)
    worker.gate.set()

    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]
    assert [len(batch) for batch in worker.batches] == [4, 2]


async def test_beyond_the_queue_questions_are_refused() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker, waiting=2)
    # Four go into the pass at hand, two wait.
    first = [asyncio.create_task(batcher.submit(one)) for one in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = [asyncio.create_task(batcher.submit(one)) for one in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(ApiError) as refused:
        await batcher.submit(9)

    worker.gate.set()
    assert refused.value.code is ProblemCode.OVERLOADED
    await asyncio.gather(*first, *second)


async def test_a_failed_pass_fails_its_questions_and_no_others() -> None:
    worker = Worker()
    batcher = batcher_of(worker)

    with pytest.raises(ValueError, match="thirteen"):
        await batcher.submit(13)

    assert await batcher.submit(1) == 2


async def test_a_pass_that_leaves_a_question_unanswered_fails_and_hangs_nobody() -> None:
    worker = Worker()
    batcher = batcher_of(worker)

    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(batcher.submit(14), 60.0)

    assert await batcher.submit(1) == 2


async def test_when_the_server_stops_those_who_wait_are_told_to_come_back() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker)
    busy = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    worker.gate.set()
    await closing

    assert await busy == 2
    for late in (waiting, asyncio.create_task(batcher.submit(3))):
        with pytest.raises(ApiError) as refused:
            await late
        assert refused.value.code is ProblemCode.NOT_READY


async def test_a_caller_that_hangs_up_is_not_asked_for() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker)
    busy = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone, staying = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    worker.gate.set()

    assert await staying == 6
    assert await busy == 2
    assert worker.batches == [[1], [3]]
