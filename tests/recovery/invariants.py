"""The invariant of a chaos run: each report that a phone has a receipt for is in the sums exactly once.

Three records are compared: the phones' receipts, the servers' rows, and the sums. A report is identified by
its phone and the round of its assignment, a sum by its round; so no violation can make up for another.

A report that is in a sum without a receipt is no violation: the answer was lost, and the assignment ended
before the phone could ask again. Such reports are counted by themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from tests.recovery.recorded_state import ROUNDING_TOLERANCE, RecordedState, RoundSum, TracedReport

from keyflock_server.protocol.identifiers import RoundId


@dataclass(frozen=True, slots=True)
class ExactlyOnceCheck:
    """The result of the comparison."""

    #: Reports that phones hold a receipt for.
    acked: int
    #: Reports in the sums.
    counted: int
    #: Reports with a receipt that are in no sum.
    lost: int
    #: How often reports are in a sum more than once.
    double: int
    #: Reports in a sum whose phone has no receipt, by task.
    unacked: Mapping[str, int]
    #: How many of the sums were compared for equality.
    exact_sums: int
    sums: int
    #: The largest difference between one of the other sums and its rows' weights.
    largest_rounding: float
    #: The violations, one line each.
    violations: tuple[str, ...] = ()


def check_exactly_once(acked: AbstractSet[tuple[int, RoundId]], recorded: RecordedState) -> ExactlyOnceCheck:
    """Compare the receipts with the rows and the sums."""
    expected: dict[RoundId, list[TracedReport]] = defaultdict(list)
    for row in recorded.counted_reports:
        expected[row.summed_in].append(row)
    no_sum = RoundSum(np.zeros(0), is_exact=True, is_published=False)
    lost_in_sums = double = 0
    largest_rounding = 0.0
    violations = []
    for round_id in sorted({*expected, *recorded.round_sums}):
        round_sum = recorded.round_sums.get(round_id, no_sum)
        for phone, deviation, report_weight in _deviations(round_sum, expected[round_id]):
            if abs(deviation) <= (0.0 if round_sum.is_exact else ROUNDING_TOLERANCE):
                largest_rounding = max(largest_rounding, abs(deviation))
                continue
            reports = max(1, round(abs(deviation) / report_weight))
            double += reports if deviation > 0 else 0
            lost_in_sums += reports if deviation < 0 else 0
            violations.append(f"the sum of {round_id} has {deviation:+g} of phone {phone} against its rows")
    known = {(row.phone, row.assigned_in) for row in recorded.counted_reports}
    violations += [f"{round_id} has no row of phone {phone}'s receipt" for phone, round_id in acked - known]
    return ExactlyOnceCheck(
        acked=len(acked),
        counted=len(recorded.counted_reports) + double - lost_in_sums,
        lost=lost_in_sums + len(acked - known),
        double=double,
        unacked=Counter(_task_of(round_id) for _, round_id in known - acked),
        exact_sums=sum(one.is_exact for one in recorded.round_sums.values()),
        sums=len(recorded.round_sums),
        largest_rounding=largest_rounding,
        violations=tuple(violations),
    )


def _task_of(round_id: RoundId) -> str:
    return round_id.rpartition("-")[0]


def _deviations(round_sum: RoundSum, rows: Iterable[TracedReport]) -> Iterable[tuple[int, float, float]]:
    """Yield each phone, its weight in the sum minus that of its rows, and the weight of one report of it."""
    expected: dict[int, float] = defaultdict(float)
    report_weight: dict[int, float] = {}
    for row in rows:
        expected[row.phone] += row.weight
        report_weight[row.phone] = min(row.weight, report_weight.get(row.phone, row.weight))
    for phone in {*expected, *np.flatnonzero(round_sum.weight_by_phone).tolist()}:
        weight = float(round_sum.weight_by_phone[phone]) if phone < round_sum.weight_by_phone.size else 0.0
        yield phone, weight - expected[phone], report_weight.get(phone, 1.0)
