"""Reports that are summed and not yet committed. Nobody in here has been acknowledged.

Two halves. ``MicroBatch`` lives on the event loop and knows who waits; ``PendingSum`` on the workbench's
one thread and knows what was added; since that thread does one thing after the other, what ``take`` returns
is exactly the sum of the reports it names.

The encoded deltas stay in memory until their batch is committed: a phone may have sent its report to another
replica too, and a sum from which a report must be left out is made anew.

A flush is only as large as the reports in it are distinct: what repeats another report of the round,
or says nearly nothing is summed and counted with the others, but does not make them enough.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import Final

from keyflock_compression import CodecError, CodecSpec, DecodedUpdate, DecodeLimits, Layout, decode
from keyflock_server.aggregation.content_digest import content_digest
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import Admitted, Judge, Rejected, Verdict, verdict_on
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId
from keyflock_server.rounds.decisions import Pending

#: Digests of a round's reports that are remembered, so that sending them again makes no later flush larger.
_KEPT_DIGESTS: Final = 8_192


class Outcome(Enum):
    """What became of a pending report."""

    COUNTED = auto()
    #: Another report was counted for the same assignment, by another process.
    CONFLICT = auto()
    #: The round ended without it.
    ROUND_GONE = auto()
    #: The device was forgotten; nothing of it is counted.
    FORGOTTEN = auto()
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
    #: The task's table that it comes from.
    table: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One report's part in a sum."""

    delta: bytes = field(repr=False)
    codec: AssignedCodec
    weight: float
    #: As it was judged: the batch may have been taken over by the next buffer, whose scales have moved.
    scale: float
    #: As it was judged: its norm, where that is counted.
    norm: float | None
    #: Of the numbers; None for a report that makes no flush larger, whatever it is committed with.
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch on its way to the store."""

    sum: PartialAggregate
    entries: dict[AssignmentId, Entry]

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """Whose reports are in the sum, in the order of its additions."""
        return tuple(self.entries)

    @property
    def size(self) -> Pending:
        """How many reports there are."""
        return Pending(len(self.entries), len(_digests(self.entries)))


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
        #: Of ``_entries``.
        self._digests: set[bytes] = set()
        #: Of the round's reports that were taken before, the oldest first.
        self._taken: OrderedDict[bytes, None] = OrderedDict()

    def begin_round(self, judge: Judge) -> None:
        """Go on for the next buffer of an asynchronous task, which judges by other norm scales."""
        self._judge = judge
        self._taken = OrderedDict()

    @property
    def size(self) -> Pending:
        """How many reports are in the sum; may be read from anywhere."""
        return Pending(len(self._entries), len(self._digests))

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
        said = self._judge.judge(update, self._layout, codec.table)
        if isinstance(said, Rejected):
            raise Refusal(said.verdict, said.detail)
        digest = None if said.is_thin else content_digest(update)
        if digest is not None and digest in self._taken:
            digest = None
        is_thin = digest is None or digest in self._digests
        entry = Entry(delta, codec, weight, said.scale, said.norm, digest)
        _sum_up(self._sum, said.update, entry)
        self._entries[assignment] = entry
        if digest is not None:
            self._digests.add(digest)
        return replace(said, is_thin=is_thin)

    def take(self, may_take: Callable[[Pending], bool]) -> Taken | None:
        """All that is there, if so many reports may be taken; begins anew then.

        Asked here and not on the event loop: until this thread comes to it, the sum goes on growing.
        """
        if not may_take(self.size):
            return None
        taken = Taken(self._sum, self._entries)
        self._taken.update(dict.fromkeys(self._digests))
        while len(self._taken) > _KEPT_DIGESTS:
            self._taken.popitem(last=False)
        self._sum = PartialAggregate(self._layout.size)
        self._entries, self._digests = {}, set()
        return taken

    def give_back(self, taken: Taken) -> None:
        """A batch whose commit failed."""
        self._sum = taken.sum.merged(self._sum)
        self._entries = taken.entries | self._entries
        self._digests = _digests(self._entries)

    def without(self, taken: Taken, left_out: Collection[AssignmentId]) -> Taken:
        """The same batch as if these reports had never come."""
        rest = {id_: entry for id_, entry in taken.entries.items() if id_ not in left_out}
        total = PartialAggregate(self._layout.size)
        for entry in rest.values():
            update = self._judge.shortened(self._decoded(entry.delta, entry.codec), self._layout)
            _sum_up(total, update, entry)
        return Taken(total, rest)

    def drop(self, left_out: Collection[AssignmentId]) -> tuple[AssignmentId, ...]:
        """Take these reports out of the sum, as if they had never come; return which of them were in it."""
        dropped = tuple(id_ for id_ in self._entries if id_ in left_out)
        if dropped:
            rest = self.without(Taken(self._sum, self._entries), dropped)
            self._sum, self._entries = rest.sum, rest.entries
            self._digests = _digests(self._entries)
        return dropped

    def _decoded(self, delta: bytes, codec: AssignedCodec) -> DecodedUpdate:
        limits = DecodeLimits(max_container_bytes=len(delta))
        return decode(delta, self._layout, spec=codec.spec, seed=codec.seed, limits=limits)


def _sum_up(total: PartialAggregate, update: DecodedUpdate, entry: Entry) -> None:
    total.add(update, entry.weight, entry.scale)
    if entry.norm is not None:
        total.norms.add(entry.codec.table, entry.norm)


def _digests(entries: Mapping[AssignmentId, Entry]) -> set[bytes]:
    return {entry.digest for entry in entries.values() if entry.digest is not None}


class MicroBatch:
    """Who waits for the next flush.

    Args:
        pending_sum: The other half.
    """

    def __init__(self, pending_sum: PendingSum) -> None:
        self.sum = pending_sum
        self._waiting: dict[AssignmentId, PendingReport] = {}
        #: Sizes of the deltas whose phones have been answered, or have left, before the flush.
        self._unattended: dict[AssignmentId, int] = {}
        #: Bytes of the deltas that are kept though no request is under way for them.
        self.unattended_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """The assignments whose reports wait."""
        return tuple(self._waiting)

    @property
    def size(self) -> Pending:
        """How many reports wait; those that are being decoded, or committed, pass for distinct."""
        reports, distinct = self.sum.size
        return Pending(len(self._waiting), max(0, len(self._waiting) - reports + distinct))

    def get(self, assignment: AssignmentId) -> PendingReport | None:
        """The assignment's report, if one waits."""
        return self._waiting.get(assignment)

    def reserve(self, report: PendingReport) -> None:
        """A place for a report that is about to be decoded."""
        self._waiting[report.id] = report

    def withdraw(self, assignment: AssignmentId) -> None:
        """The report was refused."""
        self._waiting.pop(assignment, None)
        self._forget(assignment)

    def leave_unattended(self, assignment: AssignmentId, delta_bytes: int) -> None:
        """The request is over; if its report still waits, its delta is kept in memory all the same."""
        if assignment in self._waiting and assignment not in self._unattended:
            self._unattended[assignment] = delta_bytes
            self.unattended_bytes += delta_bytes

    def named(self, assignments: Collection[AssignmentId]) -> list[PendingReport]:
        """These reports, which still wait."""
        return [self._waiting[assignment] for assignment in assignments]

    def of_devices(self, devices: Collection[DeviceId]) -> list[AssignmentId]:
        """Return whose reports of these devices wait."""
        return [report.id for report in self._waiting.values() if report.device in devices]

    def settle(self, assignments: Collection[AssignmentId], outcome: Outcome) -> None:
        """These reports wait no more."""
        for assignment in assignments:
            report = self._waiting.pop(assignment)
            self._forget(assignment)
            if not report.outcome.done():
                report.outcome.set_result(outcome)

    def settle_all(self, outcome: Outcome) -> None:
        """Nobody waits any more."""
        self.settle(tuple(self._waiting), outcome)

    def _forget(self, assignment: AssignmentId) -> None:
        self.unattended_bytes -= self._unattended.pop(assignment, 0)
