"""What a server knows of its own load: requests in flight, and how late its event loop is."""

import asyncio

from keyflock_server.http.readiness import Readiness
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.load import LoadMeter
from keyflock_server.runtime.probes import Probes
from keyflock_server.telemetry.metrics import Metrics


def test_a_server_without_requests_that_is_on_time_has_no_load() -> None:
    meter = LoadMeter(capacity=10)

    meter.record_lag(0.1)

    assert meter.load() == 0.0


def test_requests_beyond_half_the_places_are_load() -> None:
    meter = LoadMeter(capacity=10)
    meter.in_flight = lambda: 10

    assert meter.load() == 1.0


def test_one_late_pass_is_forgiven_and_many_are_not() -> None:
    meter = LoadMeter(capacity=10)

    meter.record_lag(2.0)
    after_one = meter.load()
    for _ in range(20):
        meter.record_lag(2.0)

    assert after_one == 0.0
    assert meter.load() > 2.0


async def test_the_heartbeat_tells_how_late_it_was_called_back() -> None:
    # The clock is read at the start, before and after a beat, and after the pause: 3 s where 0 were asked.
    readings = iter([0.0, 0.0, 0.0, 1.0, 4.0])
    told: list[float] = []

    async def beat() -> None:
        heartbeat.stop()

    metrics = Metrics()
    heartbeat = Heartbeat(beat, 0.0, metrics, lambda: next(readings), on_lag=told.append)
    await asyncio.wait_for(heartbeat.run(), 60.0)

    assert told == [3.0]
    # A pause that a stop cuts short says nothing of the event loop.
    assert metrics.registry.get_sample_value("keyflock_event_loop_lag_seconds_count") == 0.0


async def test_operators_see_how_late_the_event_loop_was() -> None:
    # 1 s, and 3 s where 0 were asked; then it is stopped.
    readings = iter([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
    metrics = Metrics()
    beats = iter([False, False, True])

    async def beat() -> None:
        if next(beats):
            heartbeat.stop()

    heartbeat = Heartbeat(beat, 0.0, metrics, lambda: next(readings))
    await asyncio.wait_for(heartbeat.run(), 60.0)

    assert metrics.registry.get_sample_value("keyflock_event_loop_lag_seconds_count") == 2.0
    assert metrics.registry.get_sample_value("keyflock_event_loop_lag_seconds_sum") == 4.0


async def test_operators_see_how_many_tasks_the_event_loop_has() -> None:
    metrics = Metrics()
    probes = Probes(Readiness(), Heartbeat(_nothing, 1.0, metrics), metrics)
    waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]

    exposition = probes.by_path(with_metrics=True)["/metrics"]().body

    for task in waiting:
        task.cancel()
    assert b"keyflock_event_loop_tasks 4.0" in exposition  # this test is one


async def _nothing() -> None:
    pass
