"""Measurements are one sample a call, exact quantiles, and errors by code.

Every sample keeps the instant at which the call was *due*, not the one at which the generator got round to
sending it; latency is the time from there. Samples are kept whole: runs are bounded, and an exact p99.9 is
worth a few megabytes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: The name of a whole visit, training time left out.
VISIT = "visit"
#: The outcome of a report whose connection the scenario cuts.
LOST_ON_PURPOSE = "lost_on_purpose"
#: Expected answers, not errors: the phone does what they say.
EXPECTED_OUTCOMES = frozenset({"ok", "report_pending", "round_gone", LOST_ON_PURPOSE})


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered, refused or lost call. Instants are seconds since the start of the run."""

    call: str
    due_at_s: float
    sent_at_s: float
    ended_at_s: float
    #: ``ok``, a problem's code, or ``lost``, ``timeout``, ``http_<status>``, ``lost_on_purpose``.
    outcome: str
    status: int = 0

    @property
    def latency_s(self) -> float:
        """Return the latency since the call was due: a late generator or a full queue is part of it."""
        return self.ended_at_s - self.due_at_s


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Latency of one kind of call, in milliseconds."""

    count: int
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


@dataclass(slots=True)
class Measurements:
    """The measurements of one run from the phones' side."""

    samples: list[Sample] = field(default_factory=list)
    #: Check-ins by answer: ``assignment`` or the reason of the refusal.
    check_ins: Counter[str] = field(default_factory=Counter)
    #: The number of visits by how they ended.
    endings: Counter[str] = field(default_factory=Counter)
    #: Assignments whose report the server acknowledged as counted.
    acked: set[str] = field(default_factory=set)
    #: Assignments whose report was sent, and the phone gave up before it knew the answer.
    unsettled: set[str] = field(default_factory=set)
    #: Assignments acknowledged twice without ``duplicate``: the server may have counted them twice.
    acked_twice: set[str] = field(default_factory=set)
    #: Arrivals that the generator did not start, for want of room.
    shed: int = 0
    #: How late the generator started each visit, in seconds.
    lateness_s: list[float] = field(default_factory=list)

    def ack(self, assignment: str, *, is_duplicate: bool) -> None:
        """Record a receipt for ``assignment``."""
        if assignment in self.acked and not is_duplicate:
            self.acked_twice.add(assignment)
        self.acked.add(assignment)
        self.unsettled.discard(assignment)

    def errors(self) -> Counter[str]:
        """Return the counts of unexpected outcomes by ``call code``."""
        return Counter(
            f"{sample.call} {sample.outcome}"
            for sample in self.samples
            if sample.outcome not in EXPECTED_OUTCOMES
        )

    def server_failures(self) -> int:
        """Return the number of answers that no phone can cause: 5xx other than the 503 of overload."""
        return sum(sample.status >= 500 and sample.status != 503 for sample in self.samples)

    def error_share(self) -> float:
        """Return the share of calls with errors."""
        return sum(self.errors().values()) / len(self.samples) if self.samples else 0.0

    def quantiles(self, duration_s: float) -> Mapping[str, Quantiles]:
        """Return latency per call over ``duration_s`` of load; calls cut off on purpose are left out."""
        latencies: dict[str, list[float]] = {}
        for sample in self.samples:
            if sample.outcome != LOST_ON_PURPOSE:
                latencies.setdefault(sample.call, []).append(sample.latency_s * 1_000.0)
        return {call: quantiles(values, duration_s) for call, values in sorted(latencies.items())}


def quantiles(latencies_ms: list[float], duration_s: float) -> Quantiles:
    """Return exact quantiles (the smallest sample with at least that share of samples at or below it)."""
    p50, p99, p999, worst = np.quantile(latencies_ms, [0.5, 0.99, 0.999, 1.0], method="inverted_cdf")
    return Quantiles(
        len(latencies_ms), len(latencies_ms) / duration_s, float(p50), float(p99), float(p999), float(worst)
    )
