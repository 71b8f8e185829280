"""The open loop starts every visit at its scheduled instant, whether or not earlier ones have ended.

That is what "open" means: the server's answers have no influence on when the next phone comes. A loop that
waits for answers would stop asking just when the server stalls, and its figures would hide the stall.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from keyflock_load_tests.measurement import Measurements


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits that keep a run finite."""

    #: The maximum number of visits at once; an arrival beyond it is counted as shed.
    max_in_flight: int
    #: How long visits may take to end after the last arrival; later they are cut off.
    drain_s: float


async def run_open_loop(
    arrivals_s: Sequence[float],
    begin_visit: Callable[[int, float], Awaitable[None]],
    clock: Callable[[], float],
    measurements: Measurements,
    limits: RunLimits,
) -> None:
    """Run the whole schedule and wait for the visits to end.

    Args:
        arrivals_s: Sorted instants, seconds on ``clock``.
        begin_visit: Called with the arrival's index and the instant at which it was due.
        clock: Seconds since the start of the run.
        measurements: Records lateness, shed arrivals and visits that were cut off.
        limits: The limits of the run.
    Guarantees:
        Every arrival is started, shed, or cut off, and counted as such; the call returns at most
        ``drain_s`` (and the time to cancel) after the last arrival.
    """
    visits: set[asyncio.Task[None]] = set()

    async def visit(index: int, due_at_s: float) -> None:
        await begin_visit(index, due_at_s)

    for index, due_at_s in enumerate(arrivals_s):
        await asyncio.sleep(max(0.0, due_at_s - clock()))
        measurements.lateness_s.append(clock() - due_at_s)
        if len(visits) >= limits.max_in_flight:
            measurements.shed += 1
            continue
        task = asyncio.create_task(visit(index, due_at_s))
        visits.add(task)
        task.add_done_callback(visits.discard)
    if not visits:
        return
    ended, unfinished = await asyncio.wait(visits, timeout=limits.drain_s)
    for task in unfinished:
        task.cancel()
    measurements.endings["cut off"] += len(unfinished)
    for outcome in await asyncio.gather(*ended, *unfinished, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
