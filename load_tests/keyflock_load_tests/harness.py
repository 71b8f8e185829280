"""The harness runs a scenario: it starts servers, enrols the fleet, makes the load, compares the books."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_compression import DEFAULT_SPEC, encode_state
from keyflock_load_tests.books import read_counts
from keyflock_load_tests.call_log import CallLog, logs_of_samples, merge_logs, recovery_s
from keyflock_load_tests.ceilings import measure_ceilings
from keyflock_load_tests.connection import HttpConnection
from keyflock_load_tests.cores import Cores, pin_this_process
from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.enrolling import enrol_fleet
from keyflock_load_tests.figures import call_rows, flush_sizes, phone_rows, server_rows
from keyflock_load_tests.machine import machine
from keyflock_load_tests.measured_calls import MeasuredCalls, request_of
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import ServerWatch
from keyflock_load_tests.payload import ReadyDeltas, fresh_checkpoint, stream_containers, synthetic_delta
from keyflock_load_tests.phone_script import PhoneState
from keyflock_load_tests.result import LoadReport, Mark, check_goals
from keyflock_load_tests.scenario import Outage, Scenario, StreamPlan, TaskPlan
from keyflock_load_tests.server_group import ServerGroup, running_servers
from keyflock_load_tests.side_calls import SideCalls
from keyflock_load_tests.streams import Stream, StreamResult
from keyflock_load_tests.visits import BESIDE, Visits
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_server.protocol import calls, messages

POPULATION: Final = "load-test"
TASK: Final = "steady"
#: Devices that are back after an outage come over so many connections, and are waited for so long.
_HERD: Final = StreamPlan(all_at_once=True, connections=1_024, drain_s=60.0)
_HERD_S: Final = 60.0
#: Ends the names of calls of devices that come back after an outage, all at once.
HERD: Final = " (herd)"
#: After an outage a check-in is slow, and the server not yet recovered, beyond this.
SLOW_CHECK_IN_S: Final = 0.25


def run(scenario: Scenario, folder: Path, cores: Cores | None = None) -> LoadReport:
    """Run ``scenario`` against servers of its own in ``folder``; nothing is left running afterwards.

    Args:
        scenario: What to run.
        folder: For all that the servers write.
        cores: Which core the servers keep to, and which one all that makes load; None: any, and no ceilings
            are measured.
    """
    server_core, own_core = (cores.server, cores.generator) if cores else (None, None)
    if scenario.server.replicas > 1:
        server_core = own_core = None  # more processes than cores: the kernel shares them out
    with running_servers(scenario.server, folder, server_core) as group:
        report = asyncio.run(_LoadRun(scenario, group, own_core).play())
    if cores is None:
        return report
    ceilings = measure_ceilings(scenario, report.figures, folder / "ceilings", cores)
    return msgspec.structs.replace(report, ceilings=ceilings)


@dataclass(slots=True)
class _LoadRun:
    scenario: Scenario
    group: ServerGroup
    core: int | None
    measurements: Measurements = field(default_factory=Measurements)
    marks: list[Mark] = field(default_factory=list)
    #: Figures that only one kind of scenario has.
    extra: dict[str, dict[str, float]] = field(default_factory=dict)
    delta_bytes: int = 0
    #: The stream that was run, and how the names of its calls end.
    streamed: StreamResult | None = None
    stream_suffix: str = ""
    _clock: Callable[[], float] = field(default=time.monotonic)

    async def play(self) -> LoadReport:
        """Run the scenario from the first enrolment to the comparison of the books."""
        began, began_s = datetime.now(UTC), time.monotonic()
        scenario, group = self.scenario, self.group
        checkpoint = fresh_checkpoint(scenario.task.model_size, scenario.seed)
        layout = ParamLayout.for_config(checkpoint.config)
        deltas = ReadyDeltas(layout, synthetic_delta(layout, np.random.default_rng(scenario.seed)))
        self.delta_bytes = len(deltas.in_codec(DEFAULT_SPEC.to_wire()))
        async with operator_client(group.admin_url, group.admin_token) as admin:
            await admin.create_population(POPULATION, checkpoint.to_bytes(), reason="A load test.")
            await admin.create_task(task_toml(scenario.task), reason="A load test.")
        fleet = await enrol_fleet(group, POPULATION, scenario.fleet_size, scenario.seed)
        if scenario.server.has_suggestions:
            await self._wait_for_suggestions(fleet[-1].token)
        fleet, streaming = self._shared_out(fleet)
        stream = self._prepare_stream(streaming, layout)
        if self.core is not None:
            pin_this_process(self.core)

        watches = [
            ServerWatch(lambda number=number: group.processes[number])  # type: ignore[misc]  # a default binds the number
            for number in range(len(group.processes))
        ]
        for watch in watches:
            await watch.read_metrics()
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        self._clock = lambda: loop.time() - started_s
        watching = [asyncio.create_task(watch.run(self._clock)) for watch in watches]
        try:
            await self._make_load(fleet, deltas, checkpoint, stream)
            for watch in watches:
                await watch.read_metrics()
        finally:
            if stream is not None:
                stream.close()
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        correctness = Correctness.compared(
            self.measurements.receipts,
            await read_counts(group.database_url, TASK),
            forgotten=self.measurements.forgotten,
            server_failures=self.measurements.server_failures(),
            hostile_surprises=dict(self.measurements.hostile_surprises),
            is_server_alive=group.are_alive,
            peak_rss_mib=max(watch.peak_rss_mib for watch in watches),
            max_rss_mib=scenario.server.max_rss_mib,
        )
        return self._report(watches, correctness, began, time.monotonic() - began_s)

    def _shared_out(self, fleet: list[PhoneState]) -> tuple[list[PhoneState], list[PhoneState]]:
        """Return the phones that visit, and those of the stream: a device is in one place at a time."""
        scenario = self.scenario
        has_stream = scenario.stream is not None or (scenario.outage and scenario.outage.is_followed_by_all)
        if not has_stream:
            return fleet, []
        if not scenario.arrivals.mean_rate_per_s:
            return [], fleet
        return fleet[::2], fleet[1::2]

    def _prepare_stream(self, fleet: list[PhoneState], layout: ParamLayout) -> Stream | None:
        """Start the generators, and give them all that they will send."""
        scenario = self.scenario
        is_herd = scenario.outage is not None and scenario.outage.is_followed_by_all
        plan = _HERD if is_herd else scenario.stream
        if plan is None:
            return None
        self.stream_suffix = HERD if is_herd else ""
        return Stream(
            [process.sdk_url for process in self.group.processes],
            plan,
            [phone.token.encode("ascii") for phone in fleet],
            DistinctDeltas(stream_containers(layout, scenario.seed)),
            duration_s=_HERD_S if is_herd else scenario.arrivals.duration_s,
            core=self.core,
        )

    async def _make_load(
        self, fleet: list[PhoneState], deltas: ReadyDeltas, checkpoint: Checkpoint, stream: Stream | None
    ) -> None:
        scenario, group = self.scenario, self.group
        visits = Visits(
            scenario, POPULATION, fleet, deltas.for_assignment, group.next_url, self._clock, self.measurements
        )
        side_calls = SideCalls(
            scenario.beside,
            POPULATION,
            TASK,
            fleet[-1].token if fleet else "",
            encode_state(PersonalModel.new(checkpoint.vocabulary).to_state()),
            group.admin_token,
            MeasuredCalls(self._clock, self.measurements, scenario.phones.answer_timeout_s),
        )
        duration_s = scenario.arrivals.duration_s
        beside_rng = np.random.default_rng(scenario.seed + 1)
        if scenario.slow_phones is not None:
            self.marks.append(Mark(scenario.slow_phones.from_ratio * duration_s, "slow phones come"))
        async with asyncio.TaskGroup() as everything:
            everything.create_task(visits.play())
            everything.create_task(side_calls.run(group.next_url(), group.admin_url, duration_s, beside_rng))
            if scenario.outage is not None:
                everything.create_task(self._fail(scenario.outage, stream))
            elif stream is not None:
                everything.create_task(self._run_stream(stream))

    async def _run_stream(self, stream: Stream) -> None:
        self.streamed = await stream.run(self._clock)
        self.streamed.add_to(self.measurements)

    async def _fail(self, outage: Outage, herd: Stream | None) -> None:
        """Kill all servers at the planned instant, start them again, and let everybody come."""
        await asyncio.sleep(outage.at_ratio * self.scenario.arrivals.duration_s - self._clock())
        self.group.kill()
        self.marks.append(Mark(self._clock(), "killed"))
        await asyncio.sleep(outage.down_s)
        starting_s = await self.group.restart()
        self.marks.append(Mark(self._clock(), "back"))
        self.extra["outage"] = {"restart_s": starting_s}
        if herd is not None:
            await self._run_stream(herd)
            if self.streamed is not None:
                self.extra["outage"]["herd_answered_s"] = self.streamed.took_s

    def _report(
        self, watches: list[ServerWatch], correctness: Correctness, began: datetime, seconds: float
    ) -> LoadReport:
        scenario, measurements = self.scenario, self.measurements
        duration_s = scenario.arrivals.duration_s
        logs = logs_of_samples(measurements.samples)
        if self.streamed is not None:
            logs = merge_logs(logs, self.streamed.logs(self.stream_suffix))
            self.extra["generator"] = self.streamed.generator_row()
        by_call = {call: log.figures(duration_s) for call, log in logs.items()}
        figures = {**call_rows(by_call), **phone_rows(measurements), **server_rows(watches)}
        for row, columns in self._scenario_rows(logs).items():
            figures[row] = {**figures.get(row, {}), **columns}
        return LoadReport(
            scenario=scenario.name,
            purpose=scenario.purpose,
            parameters={**scenario.parameters(), "delta": f"{self.delta_bytes:,} bytes"},
            machine=machine(),
            began_at=began.isoformat(timespec="seconds"),
            duration_s=duration_s,
            seconds=seconds,
            correctness=correctness,
            violations=correctness.violations(),
            figures=figures,
            goals=check_goals(scenario.goals, figures),
            calls=by_call,
            timelines={call: log.timeline(duration_s) for call, log in logs.items()},
            check_ins=dict(measurements.check_ins.most_common()),
            endings=dict(measurements.endings.most_common()),
            errors=dict(measurements.errors().most_common()),
            servers=[watch.usage for watch in watches],
            flushes=flush_sizes(watches),
            ceilings=[],
            marks=self.marks,
        )

    def _scenario_rows(self, logs: dict[str, CallLog]) -> dict[str, dict[str, float]]:
        """Return the figures that only this kind of scenario has."""
        rows = dict(self.extra)
        back_s = next((mark.at_s for mark in self.marks if mark.text == "back"), None)
        if back_s is not None and "check_in" in logs:
            slow_until_s = recovery_s(logs["check_in"], back_s, slow_s=SLOW_CHECK_IN_S)
            rows["outage"] = {**rows.get("outage", {}), "recovery_s": slow_until_s}
        for call in ("check_in", "report"):
            alone, beside = logs.get(call), logs.get(call + BESIDE)
            if alone is not None and beside is not None:
                ratios = np.quantile(beside.latency_s, [0.5, 0.99]) / np.quantile(
                    alone.latency_s, [0.5, 0.99]
                )
                rows.setdefault("honest", {})[f"{call}_p50_ratio"] = float(ratios[0])
                rows["honest"][f"{call}_p99_ratio"] = float(ratios[1])
        return rows

    async def _wait_for_suggestions(self, token: str) -> None:
        """Ask until a suggestion comes: the server compiles its program for them first."""
        message = messages.SuggestionRequest(context="the")
        request = request_of(calls.SUGGEST, token, message=message)
        for process in self.group.processes:
            async with HttpConnection(process.sdk_url) as line:
                while (await line.send(request)).status != 200:  # noqa: ASYNC110 - another process is waited for
                    await asyncio.sleep(0.2)


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
over_selection = {plan.over_selection}
deadline_s = {plan.deadline_s}
min_flush_clients = {plan.min_flush_clients}

[pacing]
min_s = 1.0
max_s = 1.0

[training]
learning_rate = 0.3
"""
