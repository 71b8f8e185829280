"""Phones as requests: check-ins that are kept for their assignments, reports whose receipts are booked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.server_rig import EnrolledFleet, MeasuredRun, ServerRig
from keyflock_load_tests import phone_requests
from keyflock_load_tests.cores import peak_rss_mib
from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.receipts import Receipts
from keyflock_load_tests.traffic import GAVE_UP, Requests, TrafficRecord
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import Assignment, CheckInAnswer, Receipt, Refusal, RefusalReason
from keyflock_server.protocol.problems import Problem

CHECK_IN: Final = calls.CHECK_IN.name
REPORT: Final = calls.REPORT.name
MODEL: Final = calls.MODEL.name
#: A report that got one of these answers may be counted all the same, or sent again.
_UNSETTLED_STATUSES: Final = frozenset({409, 429, 500, 502, 503})
#: How long the last reports of a run are waited for.
_DRAIN_S: Final = 2.0
#: How often what a busy server refused or did not answer is asked again.
_TRIES: Final = 4
_FLUSH_FILLERS: Final = 8


def check_in_answer(body: bytes) -> Assignment | Refusal:
    """Return the answer to a check-in."""
    answer: Assignment | Refusal = wire.decode(body, CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
    return answer


def answers_by_kind(record: TrafficRecord) -> Counter[str]:
    """Return the number of check-ins by ``assignment``, the reason of the refusal, or the problem's code."""
    found: Counter[str] = Counter()
    chosen = record.of(CHECK_IN)
    for visit, status in zip(record.visit[chosen].tolist(), record.status[chosen].tolist(), strict=True):
        if 200 <= status < 300:
            answer = check_in_answer(record.books[visit])
            found[answer.reason if isinstance(answer, Refusal) else "assignment"] += 1
        else:
            found[wire.decode(record.books[visit], Problem).code if status > 0 else str(status)] += 1
    return found


@dataclass(slots=True)
class ReportBooks:
    """What phones know of their reports, and the requests that are to be sent again."""

    receipts: Receipts = field(default_factory=Receipts)
    #: Requests whose outcome the phone does not know, by assignment.
    unanswered: dict[str, bytes] = field(default_factory=dict)
    #: Reports that were refused for good, by status.
    refused: Counter[int] = field(default_factory=Counter)
    server_failures: int = 0

    def record(self, assignment: str, request: bytes, status: int, body: bytes) -> None:
        """Record what became of a report that was sent."""
        was_sent_before = self.unanswered.pop(assignment, None) is not None
        self.receipts.send(assignment)
        if 200 <= status < 300:
            self.receipts.ack(assignment, is_duplicate=wire.decode(body, Receipt).duplicate)
            return
        self.server_failures += status >= 500 and status != 503
        if status <= 0 or status in _UNSETTLED_STATUSES:
            self.unanswered[assignment] = request
            return
        self.refused[status] += 1
        if not was_sent_before:
            self.receipts.refuse(assignment)


@dataclass(slots=True)
class ReadyReports:
    """Reports that are whole requests, with the assignments that they answer."""

    phones: list[tuple[bytes, Assignment]] = field(default_factory=list)
    assignments: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)


class AssignedPhones:
    """Phones of a fleet that check in, get work, and report it.

    Args:
        rig: The server.
        fleet: The phones. Each comes once: there must be as many as assignments are needed.
        deltas: What they report; no two report the same.
    """

    def __init__(self, rig: ServerRig, fleet: EnrolledFleet, deltas: DistinctDeltas) -> None:
        self._rig = rig
        self._fleet = fleet
        self._deltas = deltas
        self._reported = 0
        self._assigned: list[tuple[bytes, Assignment]] = []
        self.books = ReportBooks()

    def check_in(self, *, duration_s: float, visits: int, connections: int) -> MeasuredRun:
        """Let phones check in, and keep their assignments."""
        tokens = self._fleet.take(visits)
        script = Requests(CHECK_IN, phone_requests.check_ins(tokens), keeps_answers=True)
        run = self._rig.play(script, visits=visits, duration_s=duration_s, connections=connections)
        self._fleet.give_back(visits - run.record.begun)
        for visit in run.record.visit[run.record.of(CHECK_IN, only_ok=True)].tolist():
            answer = check_in_answer(run.record.books[visit])
            if isinstance(answer, Assignment):
                self._assigned.append((tokens[visit], answer))
            elif answer.reason is not RefusalReason.OVERLOADED:
                raise RuntimeError(f"a phone got no work: {answer.reason} {answer.detail}")
        return run

    def ready(self, count: int) -> ReadyReports:
        """Return so many reports of phones that have work; they check in first if there are too few."""
        for _ in range(_TRIES):
            missing = count - len(self._assigned)
            if missing > 0:
                self.check_in(duration_s=600.0, visits=missing, connections=64)
        ready = ReadyReports()
        for _ in range(count):
            token, assignment = self._assigned.pop()
            ready.phones.append((token, assignment))
            ready.assignments.append(assignment.id)
            delta = self._deltas[self._reported]
            ready.requests.append(phone_requests.report(token, assignment, delta))
            self._reported += 1
        return ready

    def put_back(self, ready: ReadyReports, record: TrafficRecord | None) -> None:
        """Let phones whose report was not sent in this run report later; None: nobody's was."""
        sent = set() if record is None else set(record.visit[record.status != GAVE_UP].tolist())
        self._assigned += [phone for visit, phone in enumerate(ready.phones) if visit not in sent]

    def report(self, ready: ReadyReports, **plan: object) -> MeasuredRun:
        """Send reports, and book what came of them; ``plan`` are fields of ``TrafficPlan``."""
        script = Requests(REPORT, ready.requests, keeps_answers=True)
        # The last ones may wait for a flush that nobody fills: they are unsettled.
        fields = {"visits": len(ready.requests), "drain_s": _DRAIN_S, **plan}
        run = self._rig.play(script, **fields)
        self.book(ready, run.record)
        return run

    def settle(self) -> None:
        """Send what is unsettled again, the same bytes, with some more reports that may fill its flush."""
        for _ in range(_TRIES):
            if not self.books.unanswered:
                return
            more = self.ready(_FLUSH_FILLERS)
            again = ReadyReports(
                [],
                [*self.books.unanswered, *more.assignments],
                [*self.books.unanswered.values(), *more.requests],
            )
            self.report(again, duration_s=60.0, connections=64)

    def correctness(self, task: str) -> Correctness:
        """Settle, and hold the phones' books against the server's database."""
        self.settle()
        return Correctness.compared(
            self.books.receipts,
            self._rig.stored(task),
            server_failures=self.books.server_failures,
            is_server_alive=self._rig.server.is_alive(),
            peak_rss_mib=peak_rss_mib(self._rig.server.pid),
        )

    def book(self, ready: ReadyReports, record: TrafficRecord, order: Sequence[int] | None = None) -> None:
        """Book what came of reports.

        Args:
            ready: What was sent.
            record: The run; its script's books have the answers by the report's number.
            order: For each visit the number of its report, where that is not the visit's.
        """
        chosen = record.of(REPORT) & (record.status != GAVE_UP)  # of those nothing was sent
        for visit, status in zip(record.visit[chosen].tolist(), record.status[chosen].tolist(), strict=True):
            number = visit if order is None else order[visit]
            body = record.books.get(number, b"")
            self.books.record(ready.assignments[number], ready.requests[number], status, body)
