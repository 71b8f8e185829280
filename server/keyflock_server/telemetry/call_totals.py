"""Durations and bytes of calls, counted in a microsecond and turned into metrics when Prometheus asks.

A counter of the library takes a lock and several calls for each increment; every request would need five. The
totals belong to the event loop's thread, which alone counts in them.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

#: Upper bounds of the buckets of durations, in seconds; the last bucket has none.
DURATIONS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class CallTotals:
    """The totals of one call since the process started."""

    received_bytes: int = 0
    sent_bytes: int = 0
    duration_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATIONS_S) + 1))

    def count(self, duration_s: float, sent_bytes: int) -> None:
        """Count one answered request."""
        self.sent_bytes += sent_bytes
        self.duration_s += duration_s
        self.buckets[bisect_left(DURATIONS_S, duration_s)] += 1


class CallMetrics(Collector):
    """The totals of all calls by their names, as metrics."""

    def __init__(self) -> None:
        self._totals: defaultdict[str, CallTotals] = defaultdict(CallTotals)

    def of(self, call: str) -> CallTotals:
        """Return the totals of a call."""
        return self._totals[call]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        durations = HistogramMetricFamily(
            "keyflock_request_duration_seconds",
            "From the request's head to the answer, by call.",
            labels=["call"],
        )
        received = CounterMetricFamily(
            "keyflock_received_bytes", "Body bytes received, by call.", labels=["call"]
        )
        sent = CounterMetricFamily("keyflock_sent_bytes", "Body bytes sent, by call.", labels=["call"])
        bounds = [*map(str, DURATIONS_S), "+Inf"]
        for call, totals in self._totals.items():
            counts = accumulate(totals.buckets)
            durations.add_metric([call], list(zip(bounds, counts, strict=True)), totals.duration_s)
            received.add_metric([call], totals.received_bytes)
            sent.add_metric([call], totals.sent_bytes)
        yield from (durations, received, sent)
