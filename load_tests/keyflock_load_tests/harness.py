"""The harness runs a scenario: it starts a server, enrols the fleet, plays arrivals, compares counts."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_compression import DEFAULT_SPEC
from keyflock_load_tests.arrivals import arrival_times, visitors
from keyflock_load_tests.connection import HttpConnection
from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.measured_calls import MeasuredCalls, request_of
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import ServerUsage, sample_usage
from keyflock_load_tests.open_loop import RunLimits, run_open_loop
from keyflock_load_tests.payload import ReadyDeltas, fresh_checkpoint, synthetic_delta
from keyflock_load_tests.phone_script import APP_BUILD, LOCALE, PhoneState, Visit, VisitConditions
from keyflock_load_tests.result import LoadTestResult
from keyflock_load_tests.scenario import Scenario, TaskPlan
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol import calls, messages, wire

POPULATION: Final = "load-test"
TASK: Final = "steady"
_ENROLLING_AT_ONCE: Final = 32
_EXAMPLES: Final = (16, 256)


def run(scenario: Scenario, data_dir: Path) -> LoadTestResult:
    """Run ``scenario`` against a server of its own over ``data_dir``; nothing is left running afterwards."""
    started = time.monotonic()
    with running_server(data_dir) as server:
        measurements, vitals, correctness, delta_bytes = asyncio.run(_run_load(scenario, server))
    return LoadTestResult(
        scenario, measurements, tuple(vitals), correctness, delta_bytes, seconds=time.monotonic() - started
    )


async def _run_load(
    scenario: Scenario, server: ServerProcess
) -> tuple[Measurements, list[ServerUsage], Correctness, int]:
    checkpoint = fresh_checkpoint(scenario.task.model_size, scenario.seed)
    layout = ParamLayout.for_config(checkpoint.config)
    deltas = ReadyDeltas(layout, synthetic_delta(layout, np.random.default_rng(scenario.seed)))
    delta_bytes = len(deltas.in_codec(DEFAULT_SPEC.to_wire()))
    async with operator_client(server.admin_url, server.admin_token()) as admin:
        await admin.create_population(POPULATION, checkpoint.to_bytes())
        await admin.create_task(task_toml(scenario.task))
        fleet = await _enrol_fleet(scenario, server.sdk_url)

        measurements = Measurements()
        vitals: list[ServerUsage] = []
        loop = asyncio.get_running_loop()
        started = loop.time()

        def clock() -> float:
            return loop.time() - started

        sampling = asyncio.create_task(sample_usage(server.pid, clock, vitals))
        try:
            await _play_arrivals(scenario, server.sdk_url, fleet, deltas, measurements, clock)
        finally:
            sampling.cancel()
        is_alive = server.is_alive()
        counted = sum(view.counted for view in await admin.rounds(TASK)) if is_alive else 0
    correctness = Correctness(
        reports_acked=len(measurements.acked),
        reports_counted=counted,
        reports_unsettled=len(measurements.unsettled),
        reports_acked_twice=len(measurements.acked_twice),
        server_failures=measurements.server_failures(),
        is_server_alive=is_alive,
    )
    return measurements, vitals, correctness, delta_bytes


async def _play_arrivals(
    scenario: Scenario,
    sdk_url: str,
    fleet: list[PhoneState],
    deltas: ReadyDeltas,
    measurements: Measurements,
    clock: Callable[[], float],
) -> None:
    rng = np.random.default_rng(scenario.seed)
    arrivals_s = arrival_times(scenario.arrivals, rng)
    phones = visitors(len(arrivals_s), len(fleet), rng)
    draw = random.Random(scenario.seed)
    conditions = [VisitConditions.drawn(scenario.phones, draw) for _ in arrivals_s]
    measured = MeasuredCalls(clock, measurements, scenario.phones.answer_timeout_s)

    async def visit(index: int, due_at_s: float) -> None:
        await Visit(
            fleet[phones[index]],
            conditions[index],
            scenario.phones,
            deltas.for_assignment,
            lambda: HttpConnection(sdk_url),
            measured,
        ).run(due_at_s)

    bounds = RunLimits(scenario.max_visits_in_flight, scenario.drain_s)
    await run_open_loop(arrivals_s.tolist(), visit, clock, measurements, bounds)


async def _enrol_fleet(scenario: Scenario, sdk_url: str) -> list[PhoneState]:
    """Enrol the fleet. Enrolment is no part of the load, so only some phones enrol at once."""
    turn = asyncio.Semaphore(_ENROLLING_AT_ONCE)
    draw = random.Random(scenario.seed)
    examples = [draw.randint(*_EXAMPLES) for _ in range(scenario.fleet_size)]
    message = messages.EnrolRequest(
        protocol=messages.PROTOCOL, population=POPULATION, app_build=APP_BUILD, locale=LOCALE
    )
    request = request_of(calls.ENROL, "", message=message)

    async with HttpConnection(sdk_url) as line:

        async def enrol(count: int) -> PhoneState:
            async with turn:
                answer = await line.send(request)
            return PhoneState(wire.decode(answer.body, messages.Enrolment).token, count)

        return await asyncio.gather(*(enrol(count) for count in examples))


def task_toml(plan: TaskPlan) -> str:
    """Return the task as TOML. Phones may return at once: the load decides when they come."""
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
