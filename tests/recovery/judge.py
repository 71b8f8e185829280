"""Whether what the phones have receipts for is in the aggregates, each report exactly once.

Three books are compared: the phones' receipts, the servers' rows, and the sums. Each report is known by its
phone and the round that it was assigned in, and each sum by its round; so no fault can make up for another.

Reports that are in an aggregate without a receipt are no fault: the answer was lost, and the phone's
assignment ended before it could ask again. They are counted apart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from tests.recovery.books import ROUNDING, Aggregate, Books, Row

from keyflock_server.protocol.identifiers import RoundId


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement."""

    #: Reports that phones hold a receipt for.
    acked: int
    #: Reports in the aggregates.
    counted: int
    #: Of the receipts: reports that are not in an aggregate.
    lost: int
    #: How often reports are in an aggregate beyond their once.
    double: int
    #: Reports in an aggregate whose phone has no receipt, by task.
    unacked: Mapping[str, int]
    #: Of all aggregates, how many were compared for equality.
    exact_aggregates: int
    aggregates: int
    #: Of the others, how far a sum was from the rows' weights at most.
    largest_rounding: float
    #: What is wrong, one line each.
    faults: tuple[str, ...] = ()


def judge(acked: AbstractSet[tuple[int, RoundId]], books: Books) -> Verdict:
    """Compares the books."""
    expected: dict[RoundId, list[Row]] = defaultdict(list)
    for row in books.rows:
        expected[row.aggregate].append(row)
    nothing = Aggregate(np.zeros(0), is_exact=True, is_published=False)
    missing = double = 0
    largest = 0.0
    faults = []
    for round_id in sorted({*expected, *books.aggregates}):
        aggregate = books.aggregates.get(round_id, nothing)
        for phone, off, unit in _differences(aggregate, expected[round_id]):
            if abs(off) <= (0.0 if aggregate.is_exact else ROUNDING):
                largest = max(largest, abs(off))
                continue
            reports = max(1, round(abs(off) / unit))
            double += reports if off > 0 else 0
            missing += reports if off < 0 else 0
            faults.append(f"the sum of {round_id} has {off:+g} of phone {phone} against its rows")
    known = {(row.phone, row.assigned_in) for row in books.rows}
    faults += [f"{round_id} has no row of phone {phone}'s receipt" for phone, round_id in acked - known]
    return Verdict(
        acked=len(acked),
        counted=len(books.rows) + double - missing,
        lost=missing + len(acked - known),
        double=double,
        unacked=Counter(_task(round_id) for _, round_id in known - acked),
        exact_aggregates=sum(one.is_exact for one in books.aggregates.values()),
        aggregates=len(books.aggregates),
        largest_rounding=largest,
        faults=tuple(faults),
    )


def _task(round_id: RoundId) -> str:
    return round_id.rpartition("-")[0]


def _differences(aggregate: Aggregate, rows: Iterable[Row]) -> Iterable[tuple[int, float, float]]:
    """Of each phone: by how much its mark is off, and what one report more or less would be."""
    wanted: dict[int, float] = defaultdict(float)
    unit: dict[int, float] = {}
    for row in rows:
        wanted[row.phone] += row.weight
        unit[row.phone] = min(row.weight, unit.get(row.phone, row.weight))
    for phone in {*wanted, *np.flatnonzero(aggregate.marks).tolist()}:
        mark = float(aggregate.marks[phone]) if phone < aggregate.marks.size else 0.0
        yield phone, mark - wanted[phone], unit.get(phone, 1.0)
