"""One scenario against one server: start it, enrol the fleet, play the arrivals, compare the books."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from keyflock_client_sim.demo.admin_client import AdminClient
from keyflock_client_sim.demo.server_process import ServerProcess, running_server
from keyflock_compression import DEFAULT_SPEC
from keyflock_load_tests.arrivals import arrival_times, visitors
from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.line import HttpLine
from keyflock_load_tests.measured_calls import MeasuredCalls, request_of
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import Vitals, watch
from keyflock_load_tests.open_loop import Bounds, play
from keyflock_load_tests.outcome import Outcome
from keyflock_load_tests.payload import ReadyDeltas, fresh_checkpoint, synthetic_delta
from keyflock_load_tests.phone_script import APP_BUILD, LOCALE, Fate, Phone, Visit
from keyflock_load_tests.scenario import Scenario, TaskPlan
from keyflock_models.layout import ParamLayout
from keyflock_server.protocol import calls, messages, wire

POPULATION: Final = "load-test"
TASK: Final = "steady"
_ENROLLING_AT_ONCE: Final = 32
_EXAMPLES: Final = (16, 256)


def run(scenario: Scenario, data_dir: Path) -> Outcome:
    """Runs ``scenario`` against a server of its own over ``data_dir``; nothing is left running afterwards."""
    started = time.monotonic()
    with running_server(data_dir) as server:
        measurements, vitals, books, delta_bytes = asyncio.run(_play(scenario, server))
    return Outcome(
        scenario, measurements, tuple(vitals), books, delta_bytes, seconds=time.monotonic() - started
    )


async def _play(
    scenario: Scenario, server: ServerProcess
) -> tuple[Measurements, list[Vitals], Correctness, int]:
    checkpoint = fresh_checkpoint(scenario.task.model_size, scenario.seed)
    layout = ParamLayout.of(checkpoint.config)
    deltas = ReadyDeltas(layout, synthetic_delta(layout, np.random.default_rng(scenario.seed)))
    delta_bytes = len(deltas.in_codec(DEFAULT_SPEC.to_wire()))
    async with AdminClient(server.admin_url, server.admin_token()) as admin:
        await admin.create_population(POPULATION, checkpoint.to_bytes())
        await admin.create_task(task_toml(scenario.task))
        fleet = await _enrolled(scenario, server.sdk_url)

        measurements = Measurements()
        vitals: list[Vitals] = []
        loop = asyncio.get_running_loop()
        started = loop.time()

        def clock() -> float:
            return loop.time() - started

        watcher = asyncio.create_task(watch(server.pid, clock, vitals))
        try:
            await _play_arrivals(scenario, server.sdk_url, fleet, deltas, measurements, clock)
        finally:
            watcher.cancel()
        is_alive = server.is_alive()
        counted = sum(view.counted for view in await admin.rounds(TASK)) if is_alive else 0
    books = Correctness(
        reports_acked=len(measurements.acked),
        reports_counted=counted,
        reports_unsettled=len(measurements.unsettled),
        reports_acked_twice=len(measurements.acked_twice),
        server_failures=measurements.server_failures(),
        is_server_alive=is_alive,
    )
    return measurements, vitals, books, delta_bytes


async def _play_arrivals(
    scenario: Scenario,
    sdk_url: str,
    fleet: list[Phone],
    deltas: ReadyDeltas,
    measurements: Measurements,
    clock: Callable[[], float],
) -> None:
    rng = np.random.default_rng(scenario.seed)
    arrivals_s = arrival_times(scenario.arrivals, rng)
    phones = visitors(len(arrivals_s), len(fleet), rng)
    draw = random.Random(scenario.seed)
    fates = [Fate.drawn(scenario.phones, draw) for _ in arrivals_s]
    measured = MeasuredCalls(clock, measurements, scenario.phones.answer_timeout_s)

    async def visit(index: int, due_at_s: float) -> None:
        await Visit(
            fleet[phones[index]],
            fates[index],
            scenario.phones,
            deltas.for_assignment,
            lambda: HttpLine(sdk_url),
            measured,
        ).run(due_at_s)

    bounds = Bounds(scenario.max_visits_in_flight, scenario.drain_s)
    await play(arrivals_s.tolist(), visit, clock, measurements, bounds)


async def _enrolled(scenario: Scenario, sdk_url: str) -> list[Phone]:
    """The fleet with its tokens. Enrolment is no part of the load, so it takes turns."""
    turn = asyncio.Semaphore(_ENROLLING_AT_ONCE)
    draw = random.Random(scenario.seed)
    examples = [draw.randint(*_EXAMPLES) for _ in range(scenario.fleet_size)]
    message = messages.EnrolRequest(
        protocol=messages.PROTOCOL, population=POPULATION, app_build=APP_BUILD, locale=LOCALE
    )
    request = request_of(calls.ENROL, "", message=message)

    async with HttpLine(sdk_url) as line:

        async def enrol(count: int) -> Phone:
            async with turn:
                answer = await line.send(request)
            return Phone(wire.decode(answer.body, messages.Enrolment).token, count)

        return await asyncio.gather(*(enrol(count) for count in examples))


def task_toml(plan: TaskPlan) -> str:
    """The task as the admin API takes it. Phones may return at once: the load decides when they come."""
    return f"""
[task]
name = "{TASK}"
population = "{POPULATION}"
kind = "train"

[round]
goal = {plan.goal}
minimum = {plan.minimum}
deadline_s = {plan.deadline_s}
min_flush_clients = {plan.min_flush_clients}

[pacing]
min_s = 1.0
max_s = 1.0

[training]
learning_rate = 0.3
"""
