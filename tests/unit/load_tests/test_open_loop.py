"""The promise of the whole harness: a stalled server slows no arrival down and hides in no figure."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from keyflock_load_tests.call_log import logs_of_samples
from keyflock_load_tests.connection import Connection
from keyflock_load_tests.measured_calls import MeasuredCalls, request_of
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.open_loop import RunLimits, run_open_loop
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Request, Response

RunVirtually = Callable[[Coroutine[Any, Any, None]], None]
Clock = Callable[[], float]


class StallingServer:
    """Answers one call at a time in 10 ms, and not at all between second 10 and second 15."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def send(self, _request: Request) -> Response:
        loop = asyncio.get_running_loop()
        async with self._turn:
            if 10.0 <= loop.time() < 15.0:
                await asyncio.sleep(15.0 - loop.time())
            await asyncio.sleep(0.01)
        return Response(200, {}, b"")

    async def send_and_hang_up(self, request: Request) -> None:
        await self.send(request)


async def played(
    server: Connection, arrivals_s: list[float], clock: Clock, bounds: RunLimits | None = None
) -> Measurements:
    measurements = Measurements()
    measured = MeasuredCalls(clock, measurements, answer_timeout_s=60.0)

    async def visit(_index: int, due_at_s: float) -> None:
        await measured.send(server, calls.CHECK_IN, request_of(calls.CHECK_IN, "t"), due_at_s=due_at_s)

    await run_open_loop(
        arrivals_s, visit, clock, measurements, bounds or RunLimits(max_in_flight=10_000, drain_s=60.0)
    )
    return measurements


def test_a_stall_of_five_seconds_is_seen_by_every_phone_that_was_due_in_it(
    run_virtually: RunVirtually, loop_clock: Clock
) -> None:
    async def main() -> None:
        every_100_ms = [index / 10 for index in range(300)]

        measurements = await played(StallingServer(), every_100_ms, loop_clock)

        # A closed loop would hold one call up and report a single slow one: p99 of 10 ms out of 250.
        slow = [sample for sample in measurements.samples if sample.latency_s > 0.5]
        assert len(slow) >= 45
        assert max(sample.latency_s for sample in measurements.samples) == pytest.approx(5.01, abs=0.02)
        assert logs_of_samples(measurements.samples)["check_in"].figures(30.0).p99_ms > 4_500.0

    run_virtually(main())


def test_no_arrival_waits_for_an_answer(run_virtually: RunVirtually, loop_clock: Clock) -> None:
    async def main() -> None:
        during_the_stall = [10.0, 11.0, 12.0, 13.0]

        measurements = await played(StallingServer(), during_the_stall, loop_clock)

        assert [sample.sent_at_s for sample in measurements.samples] == pytest.approx(during_the_stall)
        assert measurements.lateness_s == pytest.approx([0.0, 0.0, 0.0, 0.0])

    run_virtually(main())


def test_lateness_of_the_generator_itself_is_part_of_the_latency(
    run_virtually: RunVirtually, loop_clock: Clock
) -> None:
    async def main() -> None:
        await asyncio.sleep(2.0)

        measurements = await played(StallingServer(), [0.0, 5.0], loop_clock)

        assert measurements.lateness_s == pytest.approx([2.0, 0.0])
        assert [sample.latency_s for sample in measurements.samples] == pytest.approx([2.01, 0.01])

    run_virtually(main())


def test_arrivals_beyond_the_bound_are_shed_and_counted(
    run_virtually: RunVirtually, loop_clock: Clock
) -> None:
    async def main() -> None:
        bounds = RunLimits(max_in_flight=2, drain_s=60.0)

        measurements = await played(StallingServer(), [10.0, 10.1, 10.2, 10.3], loop_clock, bounds)

        assert measurements.shed == 2
        assert len(measurements.samples) == 2

    run_virtually(main())


def test_visits_that_do_not_end_are_cut_off_when_the_drain_time_is_over(
    run_virtually: RunVirtually, loop_clock: Clock
) -> None:
    async def main() -> None:
        bounds = RunLimits(max_in_flight=10, drain_s=3.0)

        measurements = await played(StallingServer(), [10.0, 10.5], loop_clock, bounds)

        assert loop_clock() == pytest.approx(13.5)
        assert measurements.endings["cut off"] == 2

    run_virtually(main())


def test_an_error_in_the_harness_itself_is_not_swallowed(
    run_virtually: RunVirtually, loop_clock: Clock
) -> None:
    async def main() -> None:
        async def broken(_index: int, _due_at_s: float) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await run_open_loop([0.0], broken, loop_clock, Measurements(), RunLimits(1, 1.0))

    run_virtually(main())
