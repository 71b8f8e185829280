"""Reports that are summed and not yet committed. Nobody in here has been acknowledged.

Two halves. ``MicroBatch`` lives on the event loop and knows who waits; ``PendingSum`` on the workbench's
one thread and knows what was added; since that thread does one thing after the other, what ``take`` returns
is exactly the sum of the reports it names.

The encoded deltas stay in memory until their batch is committed: a phone may have sent its report to another
replica too, and a sum from which a report must be left out is made anew.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from keyflock_compression import CodecError, CodecSpec, DecodedUpdate, DecodeLimits, Layout, decode
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import Admitted, Judge, Rejected, Verdict, verdict_on
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId


class Outcome(Enum):
    """What became of a pending report."""

    COUNTED = auto()
    #: Another report was counted for the same assignment, by another process.
    CONFLICT = auto()
    #: The round ended without it.
    ROUND_GONE = auto()
    #: This process stops before the batch is full; the report is not counted and may be sent again.
    STOPPING = auto()


class Refusal(Exception):
    """Fault of the client: the report says what the round does not take."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class PendingReport:
    """One report that waits for its batch."""

    id: AssignmentId
    #: The round that it was assigned in.
    round_id: RoundId
    device: DeviceId
    digest: bytes
    weight: float
    session_shape: str
    received_at: datetime
    outcome: asyncio.Future[Outcome]


@dataclass(frozen=True, slots=True)
class AssignedCodec:
    """What a delta must be encoded with; the assignment says it."""

    spec: CodecSpec
    #: A codec that draws from the assignment's seed must have drawn from this one.
    seed: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One report's part in a sum."""

    delta: bytes = field(repr=False)
    codec: AssignedCodec
    weight: float
    #: As it was judged: the median may have moved since.
    scale: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch on its way to the store."""

    sum: PartialAggregate
    entries: dict[AssignmentId, Entry]

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """Whose reports are in the sum, in the order of its additions."""
        return tuple(self.entries)


class PendingSum:
    """The sum of what was decoded since the last flush. Only the workbench's thread calls it.

    Args:
        layout: What every delta must be laid out as.
        judge: What is said of each delta.
    """

    def __init__(self, layout: Layout, judge: Judge) -> None:
        self._layout = layout
        self._judge = judge
        self._sum = PartialAggregate(layout.size)
        self._entries: dict[AssignmentId, Entry] = {}

    @property
    def count(self) -> int:
        """Reports in the sum; may be read from anywhere."""
        return len(self._entries)

    def add(self, assignment: AssignmentId, delta: bytes, codec: AssignedCodec, weight: float) -> Admitted:
        """Decode one delta, judge it, and take it in; what was said of it.

        Args:
            assignment: Whose it is.
            delta: Untrusted.
            codec: What it must be encoded with.
            weight: The report's.

        Raises:
            Refusal: it is no delta of this round, or says what cannot be. Nothing was added.
        """
        try:
            update = self._decoded(delta, codec)
        except CodecError as error:
            raise Refusal(verdict_on(error), str(error)) from None
        said = self._judge.judge(update, self._layout)
        if isinstance(said, Rejected):
            raise Refusal(said.verdict, said.detail)
        self._sum.add(said.update, weight, said.scale)
        self._entries[assignment] = Entry(delta, codec, weight, said.scale)
        return said

    def take(self, may_take: Callable[[int], bool]) -> Taken | None:
        """All that is there, if so many reports may be taken; begins anew then.

        Asked here and not on the event loop: until this thread comes to it, the sum goes on growing.
        """
        if not may_take(len(self._entries)):
            return None
        taken = Taken(self._sum, self._entries)
        self._sum = PartialAggregate(self._layout.size)
        self._entries = {}
        return taken

    def give_back(self, taken: Taken) -> None:
        """A batch whose commit failed."""
        self._sum = taken.sum.merged(self._sum)
        self._entries = taken.entries | self._entries

    def without(self, taken: Taken, left_out: Collection[AssignmentId]) -> Taken:
        """The same batch as if these reports had never come."""
        rest = {id_: entry for id_, entry in taken.entries.items() if id_ not in left_out}
        total = PartialAggregate(self._layout.size)
        for entry in rest.values():
            update = self._judge.shortened(self._decoded(entry.delta, entry.codec), self._layout)
            total.add(update, entry.weight, entry.scale)
        return Taken(total, rest)

    def _decoded(self, delta: bytes, codec: AssignedCodec) -> DecodedUpdate:
        limits = DecodeLimits(max_container_bytes=len(delta))
        return decode(delta, self._layout, spec=codec.spec, seed=codec.seed, limits=limits)


class MicroBatch:
    """Who waits for the next flush.

    Args:
        pending_sum: The other half.
    """

    def __init__(self, pending_sum: PendingSum) -> None:
        self.sum = pending_sum
        self._waiting: dict[AssignmentId, PendingReport] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """The assignments whose reports wait."""
        return tuple(self._waiting)

    def get(self, assignment: AssignmentId) -> PendingReport | None:
        """The assignment's report, if one waits."""
        return self._waiting.get(assignment)

    def reserve(self, report: PendingReport) -> None:
        """A place for a report that is about to be decoded."""
        self._waiting[report.id] = report

    def withdraw(self, assignment: AssignmentId) -> None:
        """The report was refused."""
        self._waiting.pop(assignment, None)

    def named(self, assignments: Collection[AssignmentId]) -> list[PendingReport]:
        """These reports, which still wait."""
        return [self._waiting[assignment] for assignment in assignments]

    def settle(self, assignments: Collection[AssignmentId], outcome: Outcome) -> None:
        """These reports wait no more."""
        for assignment in assignments:
            report = self._waiting.pop(assignment)
            if not report.outcome.done():
                report.outcome.set_result(outcome)

    def settle_all(self, outcome: Outcome) -> None:
        """Nobody waits any more."""
        self.settle(tuple(self._waiting), outcome)
