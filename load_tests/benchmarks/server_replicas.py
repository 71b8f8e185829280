"""What a call costs two server processes over one PostgreSQL, against one of them, and PostgreSQL itself."""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.server_measurements import MeasureSizes
from benchmarks.server_phones import CHECK_IN, REPORT, check_in_answer
from benchmarks.server_rig import CalledProcess, CpuMeter, create
from benchmarks.server_tasks import WORKING, Workload, working_population
from keyflock_load_tests import phone_requests
from keyflock_load_tests.cores import Cores
from keyflock_load_tests.enrolling import enrol_fleet
from keyflock_load_tests.generator_process import GeneratorProcess
from keyflock_load_tests.scenario import ServerPlan
from keyflock_load_tests.server_group import ServerGroup, running_servers
from keyflock_load_tests.traffic import Requests, TrafficPlan, TrafficRecord
from keyflock_server.protocol.messages import Assignment

_REPLICAS: Final = 2
#: Phones of one run; each has work once.
_PHONES_A_RUN: Final = 600
_CONNECTIONS: Final = 32


@dataclass(frozen=True, slots=True)
class ReplicaCost:
    """CPU milliseconds of one call."""

    servers_ms: float
    postgres_ms: float


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """The costs by call, of one process and of two."""

    one: dict[str, list[ReplicaCost]]
    two: dict[str, list[ReplicaCost]]

    def ratio(self, call: str) -> float:
        """Return what a call costs two processes together against one: the median of the pairs."""
        pairs = zip(self.one[call], self.two[call], strict=True)
        return statistics.median(two.servers_ms / one.servers_ms for one, two in pairs)

    def line(self) -> dict[str, float]:
        """Return the ratios for the last line."""
        return {call: round(self.ratio(call), 3) for call in self.one}

    def text(self) -> str:
        """Return the paragraph."""
        found = "; ".join(self._sentence(call, name) for call, name in _NAMES.items())
        return f"""Two server processes over one PostgreSQL (synchronous commits), against one of them that
gets all calls: {found}."""

    def _sentence(self, call: str, name: str) -> str:
        one, two = _median(self.one[call]), _median(self.two[call])
        return (
            f"{name} {one.servers_ms:.2f} ms of the server's CPU with one, {two.servers_ms:.2f} with two "
            f"(**{self.ratio(call):.2f} times**), and {one.postgres_ms:.2f} and {two.postgres_ms:.2f} ms of "
            "PostgreSQL's"
        )


_NAMES: Final = {CHECK_IN: "a check-in that gets work", REPORT: "a report"}


def _median(costs: Sequence[ReplicaCost]) -> ReplicaCost:
    return ReplicaCost(
        statistics.median(one.servers_ms for one in costs),
        statistics.median(one.postgres_ms for one in costs),
    )


def measure_replicas(work: Workload, sizes: MeasureSizes) -> ReplicaFigures:
    """Measure calls to one process and to both, in turn."""
    figures = ReplicaFigures({CHECK_IN: [], REPORT: []}, {CHECK_IN: [], REPORT: []})
    phones = 2 * sizes.runs * _PHONES_A_RUN
    cores = Cores.chosen()
    with tempfile.TemporaryDirectory(prefix="keyflock-replicas-") as name, ExitStack() as stack:
        group = stack.enter_context(running_servers(ServerPlan(replicas=_REPLICAS), Path(name), cores.server))
        generators = [
            stack.enter_context(GeneratorProcess(cores.generator, may_spin=False)) for _ in range(_REPLICAS)
        ]
        population = working_population(work.checkpoint, phones)
        asyncio.run(create(group.admin_url, group.admin_token, [population]))
        fleet = asyncio.run(enrol_fleet(group, WORKING, phones, seed=1))
        tokens = [phone.token.encode("ascii") for phone in fleet]
        number = 0
        for _ in range(sizes.runs):
            for count, found in ((1, figures.one), (_REPLICAS, figures.two)):
                mine = tokens[number : number + _PHONES_A_RUN]
                deltas = [work.deltas[number + at] for at in range(_PHONES_A_RUN)]
                _run(group, generators[:count], mine, deltas, found)
                number += _PHONES_A_RUN
    return figures


def _run(
    group: ServerGroup,
    generators: Sequence[GeneratorProcess],
    tokens: list[bytes],
    deltas: list[bytes],
    found: dict[str, list[ReplicaCost]],
) -> None:
    """Let phones check in at as many servers as there are generators, and report there."""
    check_ins = phone_requests.check_ins(tokens)
    requests = [check_ins[at] for at in range(len(tokens))]
    answers = _measured(group, generators, CHECK_IN, requests, found)
    reports = []
    for token, body, delta in zip(tokens, answers, deltas, strict=True):
        answer = check_in_answer(body)
        if not isinstance(answer, Assignment):
            raise TypeError(f"a phone got no work: {answer.reason}")
        reports.append(phone_requests.report(token, answer, delta))
    _measured(group, generators, REPORT, reports, found)


def _measured(
    group: ServerGroup,
    generators: Sequence[GeneratorProcess],
    name: str,
    requests: list[bytes],
    found: dict[str, list[ReplicaCost]],
) -> list[bytes]:
    """Send each request once, in turn to the servers; return the answers in the order of the requests."""
    count = len(generators)
    called = [CalledProcess.of(server.sdk_url, server.pid) for server in group.processes[:count]]
    for number, (generator, target) in enumerate(zip(generators, called, strict=True)):
        generator.prepare(_plan(target, name, requests[number::count]))
    servers = CpuMeter(lambda: [pid for target in called for pid in target.pids])
    postgres = CpuMeter(postgres_pids)
    with servers, postgres:
        for generator in generators:
            generator.start()
        records = [generator.record() for generator in generators]
    answered = sum(record.answered(name) for record in records)
    found[name].append(
        ReplicaCost(1e3 * servers.spent_s / max(1, answered), 1e3 * postgres.spent_s / max(1, answered))
    )
    return _in_order(records, len(requests))


def _plan(target: CalledProcess, name: str, requests: list[bytes]) -> TrafficPlan:
    return TrafficPlan(
        host=target.host,
        port=target.port,
        script=Requests(name, requests, keeps_answers=True),
        visits=len(requests),
        duration_s=120.0,
        connections=_CONNECTIONS,
    )


def _in_order(records: Sequence[TrafficRecord], count: int) -> list[bytes]:
    return [records[at % len(records)].books.get(at // len(records), b"") for at in range(count)]


def postgres_pids() -> list[int]:
    """Return the processes of the PostgreSQL that this process has started."""
    return [one.pid for one in psutil.Process().children(recursive=True) if one.name().startswith("postgres")]
