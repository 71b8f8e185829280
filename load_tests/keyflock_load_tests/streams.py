"""Calls of a whole fleet from generators' processes: thousands a second, or as many as the server takes.

Visits (``visits``) are phones with all their moods, some hundred a second. A stream is a check-in, and where
it is answered with work, the report of it, from as many devices as there are.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from keyflock_load_tests import phone_requests
from keyflock_load_tests.call_log import CallLog
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.generator_process import GeneratorProcess
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import Clock
from keyflock_load_tests.receipts import Receipts
from keyflock_load_tests.scenario import StreamPlan
from keyflock_load_tests.traffic import (
    GAVE_UP,
    HUNG_UP,
    LOST,
    UNANSWERED,
    PlannedCall,
    TrafficPlan,
    TrafficRecord,
    steady_instants,
)
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode

_MAX_TRIES: Final = 20
_RETRY_PAUSE_S: Final = 0.5
_OUTCOMES: Final = {LOST: "lost", UNANSWERED: "timeout", HUNG_UP: "lost_on_purpose", GAVE_UP: "gave_up"}
#: Calls without an answer; one that was not answered in time has at least that latency.
_WITHOUT_LATENCY: Final = (LOST, HUNG_UP, GAVE_UP)
_MAY_BE_COUNTED: Final = frozenset({LOST, UNANSWERED, 503})


@dataclass(slots=True)
class StreamBooks:
    """What the phones of a stream know in the end."""

    #: Check-ins by ``assignment`` or the reason of the refusal.
    check_ins: Counter[str] = field(default_factory=Counter)
    #: Refused calls by call and problem code.
    problems: Counter[str] = field(default_factory=Counter)
    receipts: Receipts = field(default_factory=Receipts)


@dataclass(frozen=True, slots=True)
class _Report:
    """A report under way: its bytes stay the same however often it is sent."""

    assignment: str
    request: bytes
    tries: int = 1


@dataclass(slots=True)
class StreamScript:
    """Phones that check in, one after the other, and report where they get work.

    Args:
        tokens: The phones' tokens; after the last comes the first again.
        deltas: What they report, each another; None: they only check in.
        number: This script among those that share the deltas.
        scripts: How many share them.
    """

    tokens: Sequence[bytes]
    deltas: DistinctDeltas | None
    number: int = 0
    scripts: int = 1
    books: StreamBooks = field(default_factory=StreamBooks)
    _reports: dict[int, _Report] = field(default_factory=dict)
    _requests: Sequence[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Make the check-ins."""
        self._requests = phone_requests.check_ins(self.tokens)

    def first(self, visit: int) -> PlannedCall:
        """See ``TrafficScript``."""
        return PlannedCall(calls.CHECK_IN.name, self._requests[visit % len(self.tokens)])

    def next(self, visit: int, name: str, status: int, body: bytes) -> PlannedCall | None:
        """See ``TrafficScript``."""
        if name == calls.CHECK_IN.name:
            return self._after_check_in(visit, status, body)
        return self._after_report(visit, status, body)

    def _after_check_in(self, visit: int, status: int, body: bytes) -> PlannedCall | None:
        if not 200 <= status < 300:
            self._note_problem(calls.CHECK_IN.name, status, body)
            return None
        answer: messages.CheckInAnswer = wire.decode(body, messages.CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
        if isinstance(answer, messages.Refusal):
            self.books.check_ins[answer.reason.value] += 1
            return None
        self.books.check_ins["assignment"] += 1
        receipts = self.books.receipts
        if self.deltas is None or answer.id in receipts.acked or answer.id in receipts.unsettled:
            return None
        token = self.tokens[visit % len(self.tokens)]
        request = phone_requests.report(token, answer, self.deltas[visit * self.scripts + self.number])
        self._reports[visit] = _Report(answer.id, request)
        receipts.send(answer.id)
        return PlannedCall(calls.REPORT.name, request)

    def _after_report(self, visit: int, status: int, body: bytes) -> PlannedCall | None:
        report, receipts = self._reports.pop(visit), self.books.receipts
        if 200 <= status < 300:
            is_duplicate = wire.decode(body, messages.Receipt).duplicate
            receipts.ack(report.assignment, is_duplicate=is_duplicate)
            return None
        pause_s = self._note_problem(calls.REPORT.name, status, body) or _RETRY_PAUSE_S
        if status in _MAY_BE_COUNTED and report.tries < _MAX_TRIES:
            self._reports[visit] = _Report(report.assignment, report.request, report.tries + 1)
            return PlannedCall(calls.REPORT.name, report.request, after_s=pause_s)
        if status not in _MAY_BE_COUNTED and report.tries == 1:
            receipts.refuse(report.assignment)
        return None

    def _note_problem(self, name: str, status: int, body: bytes) -> float | None:
        """Count a refusal by its code; return after how many seconds to come back, if it says so."""
        if status <= 0:
            return None
        try:
            problem = wire.decode(body, Problem)
        except ApiError:
            self.books.problems[f"{name} http_{status}"] += 1
            return None
        self.books.problems[f"{name} {problem.code}"] += 1
        return problem.retry.min_s if problem.retry else None


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What came of a stream."""

    #: When it began on the run's clock.
    began_s: float
    records: tuple[TrafficRecord, ...]
    #: Whether the generators burnt their core to be on time, so that their CPU time says nothing.
    has_spun: bool = False

    @property
    def took_s(self) -> float:
        """Return how long it was until the last call had ended."""
        return max((float(record.ended_s.max(initial=0.0)) for record in self.records), default=0.0)

    def logs(self, suffix: str = "") -> dict[str, CallLog]:
        """Return the calls by name, on the run's clock; ``suffix`` ends each name."""
        found: dict[str, CallLog] = {}
        for record in self.records:
            for name in record.names:
                rows = record.of(name) & ~np.isin(record.status, _WITHOUT_LATENCY)
                log = CallLog(
                    self.began_s + record.due_s[rows],
                    record.ended_s[rows] - record.due_s[rows],
                    record.of(name, only_ok=True)[rows],
                    Counter({outcome_of(status): count for status, count in record.statuses(name).items()}),
                )
                row = name + suffix
                found[row] = found[row] + log if row in found else log
        return found

    def add_to(self, measurements: Measurements) -> None:
        """Add the phones' books to those of the run."""
        for record in self.records:
            books: StreamBooks = record.books
            measurements.check_ins.update(books.check_ins)
            measurements.receipts.add(books.receipts)
            measurements.stream_failures += sum(
                count
                for name in record.names
                for status, count in record.statuses(name).items()
                if status >= 500 and status != 503
            )
            for problem, count in books.problems.items():
                if problem.partition(" ")[2] not in _EXPECTED_PROBLEMS:
                    measurements.stream_errors[problem] += count
            for name in record.names:
                for status, count in record.statuses(name).items():
                    if status in _OUTCOMES and status != HUNG_UP:
                        measurements.stream_errors[f"{name} {outcome_of(status)}"] += count
            measurements.stream_calls += len(record.call)
            measurements.shed += record.unbegun

    def generator_row(self) -> dict[str, float]:
        """Return the figures of the generators themselves."""
        calls_made = sum(len(record.call) for record in self.records)
        cpu_s = sum(record.cpu_s for record in self.records)
        late_s = np.concatenate([record.lateness_s() for record in self.records])
        row = {"stream_lateness_p99_ms": 1e3 * float(np.quantile(late_s, 0.99)) if late_s.size else 0.0}
        if calls_made and cpu_s:
            row["stream_calls_per_s"] = calls_made / max(record.wall_s for record in self.records)
            if not self.has_spun:
                row["stream_cpu_ratio"] = cpu_s / sum(record.wall_s for record in self.records)
        return row


#: What a phone that reports may be told without anything being wrong.
_EXPECTED_PROBLEMS: Final = frozenset({ProblemCode.REPORT_PENDING.value, ProblemCode.ROUND_GONE.value})


def outcome_of(status: int) -> str:
    """Return the word for a status of a record."""
    return "ok" if 200 <= status < 300 else _OUTCOMES.get(status, f"http_{status}")


class Stream:
    """A stream that is ready to run: a generator for each server, with its share of the fleet.

    Args:
        urls: The servers' addresses.
        plan: What comes.
        tokens: The fleet's.
        deltas: What phones report.
        duration_s: After this time no phone comes any more.
        core: Where all generators run; None: anywhere.
    """

    def __init__(
        self,
        urls: Sequence[str],
        plan: StreamPlan,
        tokens: Sequence[bytes],
        deltas: DistinctDeltas,
        *,
        duration_s: float,
        core: int | None,
    ) -> None:
        self._stack = ExitStack()
        self._is_open_loop = plan.all_at_once or plan.per_s is not None
        # Generators that spin would take the core from each other.
        self._may_spin = core is not None and len(urls) == 1
        self._generators = [
            self._stack.enter_context(GeneratorProcess(core, may_spin=self._may_spin)) for _ in urls
        ]
        for number, (generator, url) in enumerate(zip(self._generators, urls, strict=True)):
            script = StreamScript(
                tokens[number :: len(urls)], deltas if plan.has_reports else None, number, len(urls)
            )
            generator.prepare(_traffic(url, plan, script, duration_s, share=1 / len(urls)))

    def close(self) -> None:
        """End the generators."""
        self._stack.close()

    async def run(self, clock: Clock) -> StreamResult:
        """Run the stream over all servers, and return what came of it."""
        began_s = clock()
        for generator in self._generators:
            generator.start()
        records = await asyncio.gather(
            *(asyncio.to_thread(generator.record) for generator in self._generators)
        )
        return StreamResult(began_s, tuple(records), has_spun=self._may_spin and self._is_open_loop)


def _traffic(
    url: str, plan: StreamPlan, script: StreamScript, duration_s: float, *, share: float
) -> TrafficPlan:
    """Return the plan of one generator, which makes a share of the stream."""
    target = urlsplit(url)
    due_s = None
    if plan.all_at_once:
        due_s = np.zeros(len(script.tokens))
    elif plan.per_s is not None:
        due_s = steady_instants(plan.per_s * share, duration_s)
    return TrafficPlan(
        host=target.hostname or "127.0.0.1",
        port=target.port or 80,
        script=script,
        duration_s=duration_s,
        due_s=due_s,
        connections=plan.connections,
        drain_s=plan.drain_s,
    )
