"""A micro-batch has the reports that are summed and not yet committed; none of them is acknowledged.

It has two halves. ``MicroBatch`` lives on the event loop and knows which requests wait; ``PendingSum`` lives
on the compute threads and knows which reports were added. They decode at the same time, and change the sum
one after the other, so what ``take`` returns is exactly the sum of the reports that it names.

The encoded deltas stay in memory until their batch is committed: a phone may have sent its report to another
replica too, and a sum without a certain report is computed anew.

Only distinct reports count towards the size of a flush: a report that repeats another of the round, or that
is nearly empty, is summed and counted with the others, but does not make them enough.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import Final

from cachetools import FIFOCache

from keyflock_compression import CodecError, CodecSpec, DecodedUpdate, DecodeLimits, Layout, decode
from keyflock_server.aggregation.content_digest import content_digest
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import (
    AdmittedReport,
    RejectedReport,
    ReportValidator,
    Verdict,
    verdict_for,
)
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId
from keyflock_server.rounds.decisions import Pending

#: Maximum number of digests of a round's reports that are remembered, so that repeats make no flush larger.
_MAX_KNOWN_DIGESTS: Final = 8_192


class ReportOutcome(Enum):
    """The outcome of a pending report."""

    COUNTED = auto()
    #: Another report was counted for the same assignment, by another process.
    CONFLICT = auto()
    #: The round ended without it.
    ROUND_GONE = auto()
    #: The device was erased; none of its reports is counted.
    FORGOTTEN = auto()
    #: This process stops before the batch is full; the report is not counted and may be sent again.
    STOPPING = auto()


class ReportRejected(Exception):
    """The round does not accept the report; this is the client's fault."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class PendingReport:
    """A report that waits for its batch."""

    id: AssignmentId
    #: The round in which its device was assigned.
    round_id: RoundId
    device: DeviceId
    delta: bytes = field(repr=False)
    examples: int
    weight: float
    session_shape: str
    received_at: datetime
    outcome: asyncio.Future[ReportOutcome]

    def is_same(self, delta: bytes, examples: int) -> bool:
        """Return whether these bytes and this number of examples are the same report."""
        if self.examples != examples or len(self.delta) != len(delta):
            return False
        # Both may be views, which Python compares item by item: comparing a copy takes a twentieth of that.
        return bytes(self.delta).startswith(delta)


@dataclass(frozen=True, slots=True)
class AssignedCodec:
    """The codec that the assignment demands for the delta."""

    spec: CodecSpec
    #: The seed that a randomised codec must have used.
    seed: int
    #: The codec table of the task from which it comes.
    table: str


@dataclass(frozen=True, slots=True)
class SummedReport:
    """A report that is part of a sum."""

    delta: bytes = field(repr=False)
    codec: AssignedCodec
    weight: float
    #: The scale that it was judged with: the next buffer, which may take the batch over, has other scales.
    scale: float
    #: The norm found when it was judged, where that is counted.
    norm: float | None
    #: Digest of the numbers; None for a report that makes no flush larger, whatever else is in it.
    digest: bytes | None
    #: SHA-256 of the report as it was sent; a repetition is known by it.
    report_digest: bytes


@dataclass(frozen=True, slots=True)
class FlushBatch:
    """A batch that is being committed."""

    sum: PartialAggregate
    entries: dict[AssignmentId, SummedReport]

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """The assignments whose reports are in the sum, in the order of addition."""
        return tuple(self.entries)

    @property
    def size(self) -> Pending:
        """How many reports are in the batch, and how many of them are distinct."""
        return Pending(len(self.entries), len(_digests(self.entries)))


class PendingSum:
    """Sums the reports that were decoded since the last flush. Only the compute threads call it.

    Several threads may add reports at the same time: each decodes by itself, and whoever changes the sum, or
    takes it, holds the lock.

    Args:
        layout: The layout of every delta.
        validator: Gives the verdict on each delta.
    """

    def __init__(self, layout: Layout, validator: ReportValidator) -> None:
        self._layout = layout
        self._validator = validator
        #: Held while the fields below are changed.
        self._lock = threading.Lock()
        self._sum = PartialAggregate(layout.size)
        self._entries: dict[AssignmentId, SummedReport] = {}
        #: The digests of ``_entries``.
        self._digests: set[bytes] = set()
        #: How many reports are in the sum. One object, so that a thread without the lock reads both at once.
        self._size = Pending(0, 0)
        #: Digests of the round's reports in earlier flushes, the oldest first.
        self._taken_digests: FIFOCache[bytes, None] = FIFOCache(_MAX_KNOWN_DIGESTS)

    def begin_round(self, validator: ReportValidator) -> None:
        """Begin the next buffer of an asynchronous task, which judges by other norm scales."""
        with self._lock:
            self._validator = validator
            self._taken_digests.clear()

    @property
    def size(self) -> Pending:
        """How many reports are in the sum; any thread may read it."""
        return self._size

    def add(
        self,
        assignment: AssignmentId,
        delta: bytes,
        codec: AssignedCodec,
        weight: float,
        report_digest: bytes = b"",
    ) -> AdmittedReport:
        """Decode a delta, validate it and add it to the sum; return the validated report.

        Args:
            assignment: The assignment that the delta answers.
            delta: The encoded delta, untrusted.
            codec: The codec that it must be encoded with.
            weight: The report's weight in the sum.
            report_digest: SHA-256 of the report, to be stored with its assignment.

        Raises:
            ReportRejected: it is no delta of this round, or has impossible values. Nothing was added.
        """
        try:
            update = self._decoded(delta, codec)
        except CodecError as error:
            raise ReportRejected(verdict_for(error), str(error)) from None
        result = self._validator.validate(update, self._layout, codec.table)
        if isinstance(result, RejectedReport):
            raise ReportRejected(result.verdict, result.detail)
        digest = None if result.is_thin else content_digest(update)
        with self._lock:
            if digest in self._taken_digests:
                digest = None
            is_thin = digest is None or digest in self._digests
            entry = SummedReport(delta, codec, weight, result.scale, result.norm, digest, report_digest)
            _sum_up(self._sum, result.update, entry)
            self._entries[assignment] = entry
            if digest is not None:
                self._digests.add(digest)
            self._publish_size()
        return result if is_thin == result.is_thin else replace(result, is_thin=is_thin)

    def take(self, may_take: Callable[[Pending], bool]) -> FlushBatch | None:
        """Return the whole sum and begin a new one, if ``may_take`` allows its size; else None.

        The size is checked here and not on the event loop: until this thread runs, the sum still grows.
        """
        with self._lock:
            if not may_take(self.size):
                return None
            taken = FlushBatch(self._sum, self._entries)
            self._taken_digests.update(dict.fromkeys(self._digests))
            self._sum = PartialAggregate(self._layout.size)
            self._entries, self._digests = {}, set()
            self._publish_size()
            return taken

    def give_back(self, taken: FlushBatch) -> None:
        """Add a batch back whose commit failed."""
        with self._lock:
            self._sum = taken.sum.merged(self._sum)
            self._entries = taken.entries | self._entries
            self._digests = _digests(self._entries)
            self._publish_size()

    def without(self, taken: FlushBatch, left_out: Collection[AssignmentId]) -> FlushBatch:
        """Return the same batch without these reports, as if they had never been added."""
        rest = {id_: entry for id_, entry in taken.entries.items() if id_ not in left_out}
        total = PartialAggregate(self._layout.size)
        for entry in rest.values():
            update = self._validator.clipped(self._decoded(entry.delta, entry.codec), self._layout)
            _sum_up(total, update, entry)
        return FlushBatch(total, rest)

    def drop(self, left_out: Collection[AssignmentId]) -> tuple[AssignmentId, ...]:
        """Remove these reports from the sum, as if they had never been added; return which were in it."""
        with self._lock:
            dropped = tuple(id_ for id_ in self._entries if id_ in left_out)
            if dropped:
                rest = self.without(FlushBatch(self._sum, self._entries), dropped)
                self._sum, self._entries = rest.sum, rest.entries
                self._digests = _digests(self._entries)
                self._publish_size()
            return dropped

    def _publish_size(self) -> None:
        self._size = Pending(len(self._entries), len(self._digests))

    def _decoded(self, delta: bytes, codec: AssignedCodec) -> DecodedUpdate:
        limits = DecodeLimits(max_container_bytes=len(delta))
        return decode(delta, self._layout, spec=codec.spec, seed=codec.seed, limits=limits)


def _sum_up(total: PartialAggregate, update: DecodedUpdate, entry: SummedReport) -> None:
    total.add(update, entry.weight, entry.scale)
    if entry.norm is not None:
        total.norms.add(entry.codec.table, entry.norm)


def _digests(entries: Mapping[AssignmentId, SummedReport]) -> set[bytes]:
    return {entry.digest for entry in entries.values() if entry.digest is not None}


class MicroBatch:
    """Holds the reports that wait for the next flush.

    Args:
        pending_sum: The half on the compute threads.
    """

    def __init__(self, pending_sum: PendingSum) -> None:
        self.sum = pending_sum
        self._waiting: dict[AssignmentId, PendingReport] = {}
        #: Sizes of the deltas whose requests ended before the flush.
        self._unattended: dict[AssignmentId, int] = {}
        #: Bytes of the deltas that stay in memory though their requests have ended.
        self.unattended_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ids(self) -> tuple[AssignmentId, ...]:
        """The assignments whose reports wait."""
        return tuple(self._waiting)

    @property
    def size(self) -> Pending:
        """How many reports wait; those being decoded or committed are taken for distinct."""
        reports, distinct = self.sum.size
        return Pending(len(self._waiting), max(0, len(self._waiting) - reports + distinct))

    @property
    def oldest_at(self) -> datetime | None:
        """Return when the report that waits longest arrived; None where none waits."""
        return min((report.received_at for report in self._waiting.values()), default=None)

    def get(self, assignment: AssignmentId) -> PendingReport | None:
        """Return the assignment's report, if one waits."""
        return self._waiting.get(assignment)

    def reserve(self, report: PendingReport) -> None:
        """Add a report that is about to be decoded."""
        self._waiting[report.id] = report

    def withdraw(self, assignment: AssignmentId) -> None:
        """Remove a report that was rejected."""
        self._waiting.pop(assignment, None)
        self._forget(assignment)

    def leave_unattended(self, assignment: AssignmentId, delta_bytes: int) -> None:
        """Record that a request has ended; if its report still waits, its delta stays in memory."""
        if assignment in self._waiting and assignment not in self._unattended:
            self._unattended[assignment] = delta_bytes
            self.unattended_bytes += delta_bytes

    def still_waits_for(self, assignments: Collection[AssignmentId]) -> bool:
        """Return whether none of these reports has been settled yet."""
        return all(assignment in self._waiting for assignment in assignments)

    def reports_for(self, assignments: Collection[AssignmentId]) -> list[PendingReport]:
        """Return these reports, which still wait."""
        return [self._waiting[assignment] for assignment in assignments]

    def ids_of_devices(self, devices: Collection[DeviceId]) -> list[AssignmentId]:
        """Return the assignments of these devices whose reports wait."""
        return [report.id for report in self._waiting.values() if report.device in devices]

    def settle(self, assignments: Collection[AssignmentId], outcome: ReportOutcome) -> None:
        """Give these reports their outcome and remove them."""
        for assignment in assignments:
            report = self._waiting.pop(assignment)
            self._forget(assignment)
            report.outcome.set_result(outcome)

    def settle_all(self, outcome: ReportOutcome) -> None:
        """Give all reports their outcome and remove them."""
        self.settle(tuple(self._waiting), outcome)

    def _forget(self, assignment: AssignmentId) -> None:
        self.unattended_bytes -= self._unattended.pop(assignment, 0)
