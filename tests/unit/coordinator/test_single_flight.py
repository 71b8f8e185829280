"""Work is done once for all who ask, and is nobody's to take away."""

import asyncio

import pytest

from keyflock_server.coordinator.single_flight import SingleFlight


class CountedWork:
    """Work that runs until it may end, and counts how often it was begun."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.begun


async def test_all_who_ask_before_it_is_done_get_the_same_and_the_next_one_anew() -> None:
    shared: SingleFlight[str, int] = SingleFlight(60.0)
    work = CountedWork()
    asking = [asyncio.create_task(shared.result("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.may_end.set()

    assert await asyncio.gather(*asking) == [1, 1, 1]
    assert await shared.result("a", work) == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    shared: SingleFlight[str, int] = SingleFlight(60.0)
    stuck, quick = CountedWork(), CountedWork()
    quick.may_end.set()
    waiting = asyncio.create_task(shared.result("stuck", stuck))

    assert await shared.result("quick", quick) == 1
    assert not waiting.done()
    stuck.may_end.set()
    assert await waiting == 1


async def test_an_error_is_for_all_who_wait_and_not_for_the_next() -> None:
    shared: SingleFlight[str, int] = SingleFlight(60.0)
    work = CountedWork()
    work.error = gone = OSError("gone")
    work.may_end.set()

    told = await asyncio.gather(*(shared.result("a", work) for _ in range(2)), return_exceptions=True)
    work.error = None

    assert told == [gone, gone]
    assert await shared.result("a", work) == 2


async def test_who_loses_patience_goes_without_and_the_work_goes_on() -> None:
    shared: SingleFlight[str, int] = SingleFlight(0.0)
    work = CountedWork()

    assert await shared.result("a", work) is None
    assert await shared.result("a", work) is None
    work.may_end.set()
    while (found := await shared.result("a", work)) is None:  # noqa: ASYNC110 - nobody waits
        await asyncio.sleep(0)

    assert found == work.begun


@pytest.mark.parametrize("under_way", [0, 2])
async def test_what_is_given_up_gives_nothing(under_way: int) -> None:
    shared: SingleFlight[int, int] = SingleFlight(60.0)
    asking = [asyncio.create_task(shared.result(key, CountedWork())) for key in range(under_way)]
    await asyncio.sleep(0)

    await shared.stop()

    assert await asyncio.gather(*asking) == [None] * under_way
