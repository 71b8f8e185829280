"""How long the closing of a round holds up the reports of another task."""

import statistics
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.server_phones import CHECK_IN, REPORT, AssignedPhones, check_in_answer
from benchmarks.server_rig import CpuMeter, EnrolledFleet, ServerRig
from keyflock_load_tests import phone_requests
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.traffic import PlannedCall, TrafficRecord, steady_instants
from keyflock_server.protocol.messages import Refusal

CLOSING_REPORT: Final = "closing_report"
#: Phones that come for a round that closes.
_PHONES_A_ROUND: Final = 20
#: Time between two rounds, within which a round closes and the next one opens.
_ROUND_EVERY_S: Final = 2.5
#: A report that was due so long before a round's end waits for it, too.
_BEFORE_S: Final = 0.1
#: How long the idle server is watched.
_IDLE_S: Final = 2.0
#: Reports of the other task: of the peak this share, and no more than so many a second.
_SHARE_OF_PEAK: Final = 0.3
_MAX_PER_S: Final = 100.0


class ClosingScript:
    """A script of steady reports, and of phones that check in and report at once.

    Args:
        reports: The steady reports, one a visit; they come first.
        tokens: Tokens of the other phones, one a visit.
        deltas: What these report.
        order: For each visit in the order of time its number among the reports, or after them.
    """

    def __init__(
        self, reports: list[bytes], tokens: list[bytes], deltas: list[bytes], order: list[int]
    ) -> None:
        self._reports, self._tokens, self._deltas, self._order = reports, tokens, deltas, order
        self._check_ins = phone_requests.check_ins(tokens)
        #: The answers to the steady reports, by their number; and the refused check-ins.
        self.books: dict[int, bytes] = {}

    def first(self, visit: int) -> PlannedCall:
        """See ``TrafficScript``."""
        number = self._order[visit]
        if number < len(self._reports):
            return PlannedCall(REPORT, self._reports[number])
        return PlannedCall(CHECK_IN, self._check_ins[number - len(self._reports)])

    def next(self, visit: int, name: str, status: int, body: bytes) -> PlannedCall | None:
        """See ``TrafficScript``."""
        number = self._order[visit]
        if name == REPORT:
            self.books[number] = body
        if name != CHECK_IN or status != 200:
            return None
        answer = check_in_answer(body)
        if isinstance(answer, Refusal):
            return None
        phone = number - len(self._reports)
        request = phone_requests.report(self._tokens[phone], answer, self._deltas[phone])
        return PlannedCall(CLOSING_REPORT, request)


@dataclass(frozen=True, slots=True)
class CloseFigures:
    """The figures of some rounds that closed."""

    #: For each closing: how much longer than usual the other task's slowest report took.
    stalls_ms: tuple[float, ...]
    #: What the slowest report took in as long a time without a closing; the median.
    usual_ms: float
    closed: int
    #: Reports of the other task a second.
    per_s: float

    @property
    def stall_ms(self) -> float:
        """The median of the stalls."""
        return statistics.median(self.stalls_ms)


def measure_closing(
    rig: ServerRig,
    phones: AssignedPhones,
    closing: EnrolledFleet,
    deltas: DistinctDeltas,
    task: str,
    *,
    rounds: int,
    peak_per_s: float,
) -> CloseFigures:
    """Let phones of a task report steadily, first alone, then while some rounds of ``task`` close.

    Args:
        rig: The server.
        phones: The phones that report steadily.
        closing: The phones of the task whose rounds close.
        deltas: What these report.
        task: Their task.
        rounds: The number of rounds to close.
        peak_per_s: The most reports a second that the server takes.
    """
    quiet_s = _ROUND_EVERY_S * (1 + np.arange(rounds))
    begins_s = quiet_s + _ROUND_EVERY_S * rounds
    duration_s = _ROUND_EVERY_S * (2 * rounds + 1)
    per_s = min(_MAX_PER_S, _SHARE_OF_PEAK * peak_per_s)
    steady_s = steady_instants(per_s, duration_s)
    closing_s = np.repeat(begins_s, _PHONES_A_ROUND)
    all_s = np.concatenate([steady_s, closing_s])
    order = np.argsort(all_s, kind="stable")
    ready = phones.ready(len(steady_s))
    script = ClosingScript(
        ready.requests,
        closing.take(len(closing_s)),
        [deltas[number] for number in range(len(closing_s))],
        order.tolist(),
    )
    before = rig.closed_rounds(task)
    run = rig.play(script, due_s=all_s[order], duration_s=duration_s, connections=256)
    phones.book(ready, run.record, order.tolist())
    closed = rig.closed_rounds(task) - before
    return close_figures(run.record, quiet_s.tolist(), begins_s.tolist(), closed, per_s)


def closing_cpu_ms(
    rig: ServerRig, closing: EnrolledFleet, deltas: DistinctDeltas, task: str, *, rounds: int
) -> float:
    """Return the server's CPU time for a round that closes with its reports, less what it takes when idle."""
    begins_s = _ROUND_EVERY_S * (1 + np.arange(rounds))
    due_s = np.repeat(begins_s, _PHONES_A_ROUND)
    own_deltas = [deltas[number] for number in range(len(due_s))]
    script = ClosingScript([], closing.take(len(due_s)), own_deltas, list(range(len(due_s))))
    duration_s = _ROUND_EVERY_S * (rounds + 1)
    before = rig.closed_rounds(task)
    run = rig.play(script, due_s=due_s, duration_s=duration_s, connections=64)
    closed = rig.closed_rounds(task) - before
    with CpuMeter(lambda: rig.target.pids) as idle:
        time.sleep(_IDLE_S)
    spent_s = run.server_cpu_s - idle.spent_s * run.record.wall_s / _IDLE_S
    return 1e3 * spent_s / max(1, closed)


def close_figures(
    record: TrafficRecord, quiet_s: list[float], begins_s: list[float], closed: int, per_s: float
) -> CloseFigures:
    """Return the figures of a run in which rounds began to fill at ``begins_s``, and none at ``quiet_s``."""
    chosen = record.of(REPORT)
    due_s, took_s = record.due_s[chosen], record.ended_s[chosen] - record.due_s[chosen]

    def slowest_s(at_s: float) -> float:
        from_s = at_s - _BEFORE_S
        return float(took_s[(due_s >= from_s) & (due_s < from_s + _ROUND_EVERY_S)].max(initial=0.0))

    usual_s = statistics.median(map(slowest_s, quiet_s))
    longer_ms = tuple(1e3 * max(0.0, slowest_s(at_s) - usual_s) for at_s in begins_s)
    return CloseFigures(longer_ms, 1e3 * usual_s, closed, per_s)
