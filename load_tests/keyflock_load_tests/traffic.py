"""What a generator sends, and the record of what came of it.

    script = Requests("check_in", requests)
    plan = TrafficPlan(host=host, port=port, script=script, visits=len(requests), duration_s=3.0)
    with GeneratorProcess(core) as generator:            # generator_process.py
        record = generator.run(plan)
    record.per_s("check_in"), record.histogram("check_in").quantile_ms(0.99)

* A **visit** begins with the call that ``script.first`` returns; after each answer ``script.next`` may
  return another call of the same visit, at once or later. `Requests` is a script of one request a visit.
* **Closed loop** (``due_s`` is None): ``connections`` visits at once, the next begins when one ends; this
  finds the peak. **Open loop**: the visits begin at the instants ``due_s``, whatever the server does, and
  latency counts from there; `steady_instants` makes a fixed rate.
* Scripts are sent to the generator's process by pickle, so they live in a module that can be imported, never
  in the one that is run. What a script gathers (``script.books``) comes back in the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from keyflock_load_tests.latency_histogram import LatencyHistogram

#: The status of a call whose connection broke before the answer was complete.
LOST: Final = 0
#: The status of a call that was not answered in time.
UNANSWERED: Final = -1
#: The status of a call after which the phone hung up on purpose.
HUNG_UP: Final = -2
#: The status of a call that was never sent, because the phone waited too long for a connection.
GAVE_UP: Final = -3


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call: a whole request as bytes."""

    #: The row of the report, as in ``protocol.calls``.
    name: str
    request: bytes
    #: How long after the answer that it follows the call is due; latency counts from then.
    after_s: float = 0.0
    #: Whether the phone closes the connection when all is sent, without waiting for the answer.
    hangs_up: bool = False


class TrafficScript(Protocol):
    """What phones do. One object serves all visits; it runs in the generator's process."""

    #: What the script has gathered; the record returns it. Must be picklable.
    books: Any

    def first(self, visit: int) -> PlannedCall:
        """Return the first call of this visit."""
        ...

    def next(self, visit: int, name: str, status: int, body: bytes) -> PlannedCall | None:
        """Return the visit's next call after this answer; None ends the visit."""
        ...


class JoinedRequests(Sequence[bytes]):
    """Requests that differ in their middle only, such as the token: a million of them take little memory."""

    def __init__(self, before: bytes, middles: Sequence[bytes], after: bytes) -> None:
        self._before, self._middles, self._after = before, middles, after

    def __len__(self) -> int:
        return len(self._middles)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - slices are of no use here
        return b"".join((self._before, self._middles[index], self._after))


@dataclass(slots=True)
class Requests:
    """A script in which each visit is one request; after the last the first is sent again.

    Args:
        name: The call's name.
        requests: The requests, whole.
        keeps_answers: Whether ``books`` gets the body of every answer, by visit.
    """

    name: str
    requests: Sequence[bytes]
    keeps_answers: bool = False
    books: dict[int, bytes] = field(default_factory=dict)

    def first(self, visit: int) -> PlannedCall:
        """See ``TrafficScript``."""
        return PlannedCall(self.name, self.requests[visit % len(self.requests)])

    def next(self, visit: int, name: str, status: int, body: bytes) -> PlannedCall | None:  # noqa: ARG002 - the protocol's signature
        """See ``TrafficScript``."""
        if self.keeps_answers:
            self.books[visit] = body
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPlan:
    """One run of a generator. It always ends: after ``duration_s``, and at most ``drain_s`` after that."""

    host: str
    port: int
    script: TrafficScript
    #: Maximum number of visits of a closed loop. In an open loop there are as many as ``due_s`` has instants.
    visits: int = 1_000_000_000
    #: After this time no visit begins.
    duration_s: float
    #: Sorted instants of an open loop, in seconds since the start; None is a closed loop.
    due_s: Sequence[float] | NDArray[np.float64] | None = None
    #: Closed loop: the number of visits at once. Open loop: the maximum number of connections, opened on
    #: demand; calls beyond it wait, and their waiting is part of their latency.
    connections: int = 64
    #: A call that has no connection after this time is given up. Without it a generator that is held up
    #: would send for ever what nobody waits for any more.
    patience_s: float = float("inf")
    #: How long answers are waited for after the end.
    drain_s: float = 15.0
    #: Whether bodies are read: without, ``script.next`` gets an empty one, and large ones cost little.
    reads_bodies: bool = True


def steady_instants(per_s: float, duration_s: float, begins_s: float = 0.0) -> NDArray[np.float64]:
    """Return the instants of an open loop with a fixed rate."""
    return begins_s + np.arange(int(per_s * duration_s)) / per_s


@dataclass(frozen=True, slots=True, eq=False)
class TrafficRecord:
    """The calls of a run, as columns; instants are seconds since the start."""

    duration_s: float
    names: tuple[str, ...]
    #: Position in ``names``.
    call: NDArray[np.int8]
    visit: NDArray[np.int32]
    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    #: The HTTP status, or `LOST`, `UNANSWERED`, `HUNG_UP`, `GAVE_UP`.
    status: NDArray[np.int16]
    #: Number of visits that were due and never begun, for want of a connection.
    unbegun: int
    #: CPU seconds of the generator, and the wall-clock time of the whole run.
    cpu_s: float
    wall_s: float
    books: Any

    def of(self, name: str, *, only_ok: bool = False) -> NDArray[np.bool_]:
        """Return which rows are calls of this name, or those of them that got a 2xx answer."""
        chosen = np.zeros(len(self.call), np.bool_)
        if name in self.names:
            chosen = self.call == self.names.index(name)
        return chosen & (self.status >= 200) & (self.status < 300) if only_ok else chosen

    @property
    def begun(self) -> int:
        """Return how many visits have begun and made a call."""
        return len(np.unique(self.visit))

    def answered(self, name: str) -> int:
        """Return how many calls got an answer, whatever it says."""
        return int(np.count_nonzero(self.of(name) & (self.status > 0)))

    def per_s(self, name: str) -> float:
        """Return the 2xx answers a second of a closed loop.

        What was under way at the end counts for the part of its time that lies before the end: where many
        calls are answered at once, as reports are by a flush, the rate would else depend on whether the last
        flush came just before the end or just after it.

        Edge cases:
            all visits ended before the duration -> a second of the time that they took
        """
        chosen, end_s = self.of(name, only_ok=True), min(self.duration_s, self.wall_s)
        due_s, ended_s = self.due_s[chosen], self.ended_s[chosen]
        parts = (end_s - due_s) / np.maximum(ended_s - due_s, 1e-9)
        return float(np.clip(parts, 0.0, 1.0).sum()) / end_s

    def generator_per_s(self, name: str) -> float:
        """Return how many calls a second the generator could make, by its CPU time for each.

        It says something of a closed loop only: in an open one the generator may burn its core to be on time.
        """
        return self.answered(name) / max(self.cpu_s, 1e-9)

    def latencies_s(self, name: str) -> NDArray[np.float64]:
        """Return the latencies of calls with a 2xx answer, from the instants at which they were due."""
        chosen = self.of(name, only_ok=True)
        return self.ended_s[chosen] - self.due_s[chosen]

    def histogram(self, name: str) -> LatencyHistogram:
        """Return the latencies of calls with a 2xx answer."""
        return LatencyHistogram.of(self.latencies_s(name))

    def statuses(self, name: str) -> dict[int, int]:
        """Return the number of calls by status."""
        values, counts = np.unique(self.status[self.of(name)], return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def lateness_s(self) -> NDArray[np.float64]:
        """Return how late each call was sent; where connections were free, it is the generator's fault."""
        return self.sent_s - self.due_s
