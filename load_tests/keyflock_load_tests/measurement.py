"""Measurements are one sample a call, and counts of how check-ins, visits and calls ended.

Every sample keeps the instant at which the call was *due*, not the one at which the generator got round to
sending it; latency is the time from there. Samples are kept whole: runs are bounded.
"""

from collections import Counter
from dataclasses import dataclass, field

from keyflock_load_tests.receipts import Receipts

#: The name of a whole visit, training time left out.
VISIT = "visit"
#: The outcome of a report whose connection the scenario cuts.
LOST_ON_PURPOSE = "lost_on_purpose"
#: The outcome of a call whose connection broke, or was refused: it has no answer, and so no latency.
LOST = "lost"
#: Ends the names of what bad phones send, which has no part in the errors.
BAD_PHONE = " (bad phone)"
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


@dataclass(slots=True)
class Measurements:
    """The measurements of one run from the phones' side."""

    samples: list[Sample] = field(default_factory=list)
    #: Check-ins by answer: ``assignment`` or the reason of the refusal.
    check_ins: Counter[str] = field(default_factory=Counter)
    #: The number of visits by how they ended.
    endings: Counter[str] = field(default_factory=Counter)
    receipts: Receipts = field(default_factory=Receipts)
    #: Acknowledged assignments whose devices were forgotten afterwards, with their rows.
    forgotten: set[str] = field(default_factory=set)
    #: What bad phones sent and the server did not answer as it should, by name and answer.
    hostile_surprises: Counter[str] = field(default_factory=Counter)
    #: The calls of a stream; its unexpected outcomes by call and cause; its 5xx answers other than 503.
    stream_calls: int = 0
    stream_errors: Counter[str] = field(default_factory=Counter)
    stream_failures: int = 0
    #: Arrivals that the generator did not start, for want of room.
    shed: int = 0
    #: How late the generator started each visit, in seconds.
    lateness_s: list[float] = field(default_factory=list)

    def errors(self) -> Counter[str]:
        """Return the counts of honest phones' unexpected outcomes by ``call code``."""
        found = Counter(
            f"{sample.call} {sample.outcome}"
            for sample in self.samples
            if sample.outcome not in EXPECTED_OUTCOMES and not sample.call.endswith(BAD_PHONE)
        )
        return found + self.stream_errors

    def server_failures(self) -> int:
        """Return the number of answers that no phone can cause: 5xx other than the 503 of overload."""
        failures = sum(sample.status >= 500 and sample.status != 503 for sample in self.samples)
        return failures + self.stream_failures

    def error_share(self) -> float:
        """Return the share of honest phones' calls with errors."""
        calls = self.stream_calls + sum(not sample.call.endswith(BAD_PHONE) for sample in self.samples)
        return self.errors().total() / calls if calls else 0.0
