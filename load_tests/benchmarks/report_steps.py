"""What a report's bytes cost the server, step by step: one table, and one JSON line.

    python -m benchmarks.report_steps      about half a minute, once the reference models are there

Reports are the late reference deltas (``reference_deltas.py``) in the default codec. Each step is timed in
processor time on each report in turn; a figure is the mean over the reports of the median of each. The dense
add, one addition of a full-size vector, takes turns with the steps, so that what else the machine does falls
on both. The last figure is how much more two threads do than one, each with a sum of its own: what is left of
2 holds the interpreter, or waits for the memory that both share.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np

from benchmarks.page import table
from benchmarks.reference_deltas import reference_deltas
from keyflock_compression import DEFAULT_LIMITS, DEFAULT_SPEC, Layout, decode, encode
from keyflock_compression.container import read_expected
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.content_digest import content_digest
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator.micro_batch import AssignedCodec, PendingSum
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.rounds.task import Aggregation

_TURNS: Final = 25
_TABLE: Final = "codec"
_WEIGHT: Final = 100.0
DENSE_ADD: Final = "dense add of a full-size vector"
EVERYTHING: Final = "everything, as the server does it"

#: A step takes the number of the report that it works on.
ReportStep = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class ReportSteps:
    """The times of the steps in microseconds, and what two threads gain."""

    bytes_of_report: float
    values_of_report: float
    times_us: dict[str, float]
    two_threads_gain: float

    def page(self) -> str:
        """Return the table, and a sentence about it."""
        dense_us = self.times_us[DENSE_ADD]
        rows: list[tuple[str, ...]] = [
            (name, f"{time_us:.0f}", f"{time_us / dense_us:.2f}") for name, time_us in self.times_us.items()
        ]
        return f"""{table(("what is done to a report", "µs", "ratio to a dense add"), rows)}

A report has {self.bytes_of_report / 1000:.1f} KB and {self.values_of_report:,.0f} values on average.
Two threads do {self.two_threads_gain:.2f} times as much as one."""


def measure_report_steps(deltas: list[np.ndarray], layout: Layout) -> ReportSteps:
    """Measure on these deltas in the default codec."""
    containers = [encode(delta, layout, DEFAULT_SPEC, seed=0) for delta in deltas]
    updates = [decode(container, layout, spec=DEFAULT_SPEC) for container in containers]
    scales = {_TABLE: NormScale.initial(statistics.median(update.l2_norm for update in updates))}
    validator = DeltaValidator(Aggregation(), scales)
    row_clip = DeltaValidator(Aggregation(row_clip_ratio=2.0), scales)
    total, dense = PartialAggregate(layout.size), np.zeros(layout.size, np.float32)
    steps: dict[str, ReportStep] = {
        DENSE_ADD: lambda _: np.add(dense, deltas[0], out=dense),
        "SHA-256 of its bytes": lambda i: hashlib.sha256(containers[i]).digest(),
        "container: lengths and digest": lambda i: read_expected(
            containers[i], DEFAULT_SPEC, layout.digest, DEFAULT_LIMITS
        ),
        "decode, with the container": lambda i: decode(containers[i], layout, spec=DEFAULT_SPEC),
        "verdict on the norm": lambda i: validator.validate(updates[i], layout, _TABLE),
        "the same with clipped rows, where a task asks for it": lambda i: row_clip.validate(
            updates[i], layout, _TABLE
        ),
        "digest of its numbers": lambda i: content_digest(updates[i]),
        "weighted add to the sum": lambda i: total.add(updates[i], _WEIGHT),
        "histogram of norms": lambda _: total.norms.add(_TABLE, 1.0),
        "decode and add": lambda i: decode(containers[i], layout, spec=DEFAULT_SPEC).add_to(dense, _WEIGHT),
        EVERYTHING: _everything(containers, layout, validator),
    }
    return ReportSteps(
        statistics.mean(len(container) for container in containers),
        statistics.mean(update.entries()[1].size for update in updates),
        _times_us(steps, len(containers)),
        _two_threads_gain([_everything(containers, layout, validator) for _ in range(2)], len(containers)),
    )


def _everything(containers: list[bytes], layout: Layout, validator: DeltaValidator) -> ReportStep:
    pending, numbers = PendingSum(layout, validator), count()
    codec = AssignedCodec(DEFAULT_SPEC, 0, _TABLE)

    def step(i: int) -> None:
        hashlib.sha256(containers[i]).digest()
        pending.add(AssignmentId(str(next(numbers))), containers[i], codec, _WEIGHT)

    return step


def _times_us(steps: dict[str, ReportStep], reports: int) -> dict[str, float]:
    taken_s: dict[str, list[list[float]]] = {name: [[] for _ in range(reports)] for name in steps}
    for _ in range(_TURNS):
        for name, step in steps.items():
            for i in range(reports):
                began_s = time.process_time()
                step(i)
                taken_s[name][i].append(time.process_time() - began_s)
    return {
        name: 1e6 * statistics.mean(statistics.median(times_s) for times_s in by_report)
        for name, by_report in taken_s.items()
    }


def _two_threads_gain(steps: list[ReportStep], reports: int) -> float:
    """Return how much more two threads do in a second than one; the median of five pairs."""

    def work(step: ReportStep) -> None:
        for i in range(reports):
            step(i)

    gains = []
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            began_s = time.perf_counter()
            work(steps[0])
            work(steps[1])
            alone_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            list(threads.map(work, steps))
            gains.append(alone_s / (time.perf_counter() - began_s))
    return statistics.median(gains)


def main() -> None:
    """Measure and print."""
    reference = reference_deltas()
    found = measure_report_steps(reference.deltas["late"], reference.layout)
    print(found.page())
    print(
        json.dumps(
            {
                "decode_over_dense_add": round(
                    found.times_us["decode and add"] / found.times_us[DENSE_ADD], 3
                ),
                "everything_us": round(found.times_us[EVERYTHING]),
                "two_threads_gain": round(found.two_threads_gain, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
