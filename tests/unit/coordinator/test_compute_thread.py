"""The compute threads: every function runs, every result arrives, and many at a time."""

import asyncio
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.harness import LAYOUT
from tests.unit.coordinator.test_micro_batch import CODEC, container, new_sum

from keyflock_server.coordinator.compute_thread import ComputeThread
from keyflock_server.protocol.identifiers import AssignmentId


def fail() -> None:
    raise ValueError("no number")


async def test_what_a_function_returns_or_raises_arrives() -> None:
    compute = ComputeThread()

    assert await compute.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="no number"):
        await compute.run(fail)
    assert await compute.run(threading.get_ident) != threading.get_ident()
    compute.close()


async def test_one_lane_runs_functions_in_their_order() -> None:
    compute, ran = ComputeThread(), list[int]()

    await asyncio.gather(*(compute.run(ran.append, number) for number in range(50)))

    assert ran == list(range(50))
    compute.close()


async def test_a_function_whose_caller_has_gone_runs_all_the_same() -> None:
    compute, may_run, ran = ComputeThread(), threading.Event(), list[int]()
    blocked = asyncio.create_task(compute.run(may_run.wait))
    leaving = asyncio.create_task(compute.run(ran.append, 1))
    await asyncio.sleep(0)

    leaving.cancel()
    may_run.set()
    await blocked
    await compute.run(ran.append, 2)

    assert leaving.cancelled()
    assert ran == [1, 2]
    compute.close()


async def test_results_that_are_ready_together_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, loop = ComputeThread(), asyncio.get_running_loop()
    wake, woken, ended = loop.call_soon_threadsafe, list[int](), threading.Event()

    def count(*what: Any, **context: Any) -> asyncio.Handle:  # noqa: ANN401 - handed on as they came
        woken.append(1)
        return wake(*what, **context)

    arrived: list[int] = []
    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    for number in range(100):
        compute.submit(lambda result, _error: arrived.append(result), int, number)
    compute.submit(lambda _result, _error: None, ended.set)
    ended.wait()  # the loop stands still meanwhile, as under load
    await compute.run(int)

    assert arrived == list(range(100))
    # The first result, and perhaps one that was ready only after the loop had looked.
    assert 1 <= len(woken) <= 3
    compute.close()


async def test_a_result_waits_for_others_while_work_is_queued_unless_somebody_awaits_it() -> None:
    compute, arrived, may_end = ComputeThread(), list[int](), threading.Event()
    compute.submit(lambda result, _error: arrived.append(result), int, 1)
    compute.submit(lambda result, _error: arrived.append(result), int, 2)
    awaited = asyncio.create_task(compute.run(int, 3))
    await asyncio.sleep(0)
    compute.submit(lambda _result, _error: None, may_end.wait)

    assert await awaited == 3
    assert arrived == [1, 2]
    may_end.set()
    compute.close()


async def test_a_result_waits_for_no_other_that_is_delivered_before_it_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted, has_looked, may_go_on = threading.Event(), threading.Event(), threading.Event()

    class SlowQueue(SimpleQueue[Any]):
        """Answers the first that asks whether it is empty only when its answer is out of date."""

        def empty(self) -> bool:
            is_empty = super().empty()
            if not has_looked.is_set():
                has_looked.set()
                may_go_on.wait()
            return is_empty

    monkeypatch.setattr("keyflock_server.coordinator.compute_thread.SimpleQueue", SlowQueue)
    compute, arrived, last = ComputeThread(lanes=2), list[str](), asyncio.Event()
    compute.submit(lambda _result, _error: arrived.append("other thread"), has_looked.wait)
    compute.submit(lambda _result, _error: arrived.append("looks"), submitted.wait)
    compute.submit(lambda _result, _error: last.set(), int)
    submitted.set()
    await last.wait()

    assert sorted(arrived) == ["looks", "other thread"]
    may_go_on.set()
    compute.close()


async def test_results_that_wait_for_others_arrive_at_the_end() -> None:
    compute, arrived, may_end = ComputeThread(lanes=2), list[int](), threading.Event()
    for number in range(2):
        compute.submit(lambda result, _error: arrived.append(result), lambda at: may_end.wait() * at, number)
    compute.end()  # what ends the threads is queued behind them
    may_end.set()
    compute.join()
    await asyncio.sleep(0)

    assert sorted(arrived) == [0, 1]


async def test_a_slip_in_what_follows_one_result_holds_up_no_other() -> None:
    compute, loop = ComputeThread(), asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

    def slip(_result: object, _error: object) -> None:
        raise RuntimeError("A slip in the code.")

    compute.submit(slip, int)

    assert await compute.run(int, 5) == 5
    assert [str(error) for error in reported] == ["A slip in the code."]
    compute.close()


async def test_closing_finishes_what_was_submitted_and_takes_no_more() -> None:
    compute, ran = ComputeThread(lanes=2), list[int]()
    for number in range(20):
        compute.submit(lambda _result, _error: None, ran.append, number)

    compute.close()

    assert sorted(ran) == list(range(20))
    with pytest.raises(RuntimeError):
        compute.submit(lambda _result, _error: None, int)


async def test_work_that_was_submitted_before_the_end_gives_its_result_and_later_work_is_refused() -> None:
    compute, may_end = ComputeThread(), threading.Event()
    submitted = [asyncio.create_task(compute.run(work)) for work in (may_end.wait, int)]
    await asyncio.sleep(0)

    compute.end()
    with pytest.raises(RuntimeError):
        await compute.run(int)
    may_end.set()
    await asyncio.to_thread(compute.join)

    assert await asyncio.gather(*submitted) == [True, 0]


async def test_two_lanes_sum_exactly_the_reports_that_a_batch_names() -> None:
    compute, pending = ComputeThread(lanes=2), new_sum()
    deltas = {}
    for number in range(64):
        vector = np.zeros(LAYOUT.size, np.float32)
        vector[number % LAYOUT.size] = number + 1
        deltas[AssignmentId(f"{number}")] = vector

    adding = [
        asyncio.create_task(compute.run(pending.add, id_, container(delta), CODEC, 1.0))
        for id_, delta in deltas.items()
    ]
    batches = []
    while not all(one.done() for one in adding):
        batches.append(await compute.run(pending.take, lambda size: size.reports > 0))
    batches.append(await compute.run(pending.take, lambda _size: True))

    taken = [batch for batch in batches if batch is not None]
    assert sorted(id_ for batch in taken for id_ in batch.ids) == sorted(deltas)
    for batch in taken:
        np.testing.assert_array_equal(batch.sum.sum, sum(deltas[id_] for id_ in batch.ids))
    compute.close()
