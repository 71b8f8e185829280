"""The calls of a run as columns, whoever made them: visits of phones, or a generator's process."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_load_tests.latency_histogram import LatencyHistogram
from keyflock_load_tests.measurement import LOST, LOST_ON_PURPOSE, Sample
from keyflock_load_tests.result import CallFigures, Timeline

#: A picture has about so many intervals, none shorter than this.
_INTERVALS: Final = 150
_MIN_INTERVAL_S: Final = 0.5
#: Points of a curve between a quantile and the one that leaves half as many calls above it.
_STEPS_PER_HALF: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class CallLog:
    """All calls of one kind."""

    #: When each that was answered, or not in time, was due, in seconds since the start; and how long after
    #: that it ended.
    due_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    #: Which of these got a good answer.
    is_ok: NDArray[np.bool_]
    outcomes: Counter[str]

    def __add__(self, other: "CallLog") -> "CallLog":
        """Return the calls of both."""
        return CallLog(
            np.concatenate((self.due_s, other.due_s)),
            np.concatenate((self.latency_s, other.latency_s)),
            np.concatenate((self.is_ok, other.is_ok)),
            self.outcomes + other.outcomes,
        )

    def figures(self, duration_s: float) -> CallFigures:
        """Return the figures; ``duration_s`` is how long load was offered."""
        histogram = LatencyHistogram.of(self.latency_s)
        is_in_time = self.due_s + self.latency_s <= duration_s
        return CallFigures(
            count=histogram.count,
            per_s=float(np.count_nonzero(self.is_ok & is_in_time)) / duration_s,
            **histogram.percentiles(),
            curve=percentile_curve(histogram),
            outcomes=dict(self.outcomes.most_common()),
        )

    def timeline(self, duration_s: float) -> Timeline:
        """Return the calls over time, until the last has ended."""
        ended_s = self.due_s + self.latency_s
        end_s = max(duration_s, float(ended_s.max(initial=0.0)))
        width_s = max(_MIN_INTERVAL_S, duration_s / _INTERVALS)
        number = max(1, int(np.ceil(end_s / width_s - 1e-9)))
        interval = np.minimum((self.due_s / width_s).astype(np.int64), number - 1)
        ended = np.minimum((ended_s / width_s).astype(np.int64), number - 1)
        order = np.argsort(interval, kind="stable")
        latency_ms = 1e3 * self.latency_s[order]
        edges = np.searchsorted(interval[order], np.arange(number + 1))
        p50, p99 = [], []
        for begin, end in pairwise(edges.tolist()):
            found: list[float | None] = [None, None]
            if end > begin:
                found = np.quantile(latency_ms[begin:end], [0.5, 0.99], method="inverted_cdf").tolist()
            p50.append(found[0])
            p99.append(found[1])
        return Timeline(
            at_s=[(index + 0.5) * width_s for index in range(number)],
            ended_per_s=(np.bincount(ended, minlength=number) / width_s).tolist(),
            p50_ms=p50,
            p99_ms=p99,
        )


CallLogs = Mapping[str, CallLog]


def logs_of_samples(samples: Iterable[Sample]) -> dict[str, CallLog]:
    """Return the calls by name; those whose connection was cut or refused have no latency."""
    due_s: dict[str, list[float]] = defaultdict(list)
    latency_s: dict[str, list[float]] = defaultdict(list)
    is_ok: dict[str, list[bool]] = defaultdict(list)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        outcomes[sample.call][sample.outcome] += 1
        if sample.outcome not in {LOST, LOST_ON_PURPOSE}:
            due_s[sample.call].append(sample.due_at_s)
            latency_s[sample.call].append(sample.latency_s)
            is_ok[sample.call].append(sample.outcome == "ok")
    return {
        call: CallLog(np.array(due_s[call]), np.array(latency_s[call]), np.array(is_ok[call]), outcomes[call])
        for call in sorted(outcomes)
        if due_s[call]
    }


def merge_logs(*all_logs: CallLogs) -> dict[str, CallLog]:
    """Return the calls of several generators together."""
    merged: dict[str, CallLog] = {}
    for logs in all_logs:
        for call, log in logs.items():
            merged[call] = merged[call] + log if call in merged else log
    return merged


def percentile_curve(histogram: LatencyHistogram) -> list[tuple[float, float]]:
    """Return points (quantile, milliseconds) that get denser towards 1, and end with the maximum.

    Source: the percentile output of HdrHistogram, whose steps halve what is left above.
    """
    if not histogram.count:
        return []
    steps = int(np.ceil(np.log2(max(2, histogram.count)) * _STEPS_PER_HALF))
    quantiles = [1.0 - 2.0 ** (-step / _STEPS_PER_HALF) for step in range(steps)]
    return [(quantile, histogram.quantile_ms(quantile)) for quantile in (*quantiles, 1.0)]


def recovery_s(log: CallLog, back_s: float, *, slow_s: float) -> float:
    """Return how long after ``back_s`` calls were still slower than ``slow_s``, by when they were due.

    Edge cases:
        none was slower -> 0
    """
    late = log.due_s[(log.due_s >= back_s) & (log.latency_s > slow_s)]
    return float(late.max() - back_s) if late.size else 0.0
