"""Personal models are read a few at a time; more than may wait are told to come back."""

import asyncio
import threading

import pytest

from keyflock_server.personal_models.decode_thread_pool import DecodeThreadPool
from keyflock_server.protocol.problems import ApiError, ProblemCode

pytestmark = pytest.mark.fault("D11")


async def test_a_hundred_at_once_take_two_threads_and_the_rest_come_back_later() -> None:
    threads, gate = DecodeThreadPool(threads=2, max_pending=8), threading.Event()
    at_once: list[int] = []
    running = threading.Semaphore(0)

    def read() -> int:
        running.release()
        at_once.append(sum(one.name.startswith("keyflock-heads") for one in threading.enumerate()))
        gate.wait()
        return 1

    asked = [asyncio.create_task(threads.run(read)) for _ in range(100)]
    refused = [task for task in asked if task.done()]
    while len(refused) < 92:
        await asyncio.sleep(0)
        refused = [task for task in asked if task.done()]
    gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers.count(1) == 8
    codes = {one.code for one in answers if isinstance(one, ApiError)}
    assert codes == {ProblemCode.OVERLOADED}
    assert len(refused) == 92
    assert max(at_once) <= 2
    await threads.stop()


async def test_a_place_is_free_again_whether_the_reading_went_well_failed_or_was_given_up() -> None:
    threads, gate = DecodeThreadPool(threads=1, max_pending=1), threading.Event()
    begun = threading.Event()

    def broken() -> None:
        raise ValueError

    def held() -> None:
        begun.set()
        gate.wait()

    for _ in range(3):
        with pytest.raises(ValueError):  # noqa: PT011 - it is the one above
            await threads.run(broken)
    given_up = asyncio.create_task(threads.run(held))
    await asyncio.to_thread(begun.wait)  # what has not begun is given up with its place
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    with pytest.raises(ApiError):
        await threads.run(gate.wait)
    gate.set()
    while True:
        try:
            answer = await threads.run(lambda: 7)
            break
        except ApiError:
            await asyncio.sleep(0)

    assert answer == 7
    await threads.stop()
