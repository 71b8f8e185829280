"""The intake decodes a report on a compute thread and adds it to its round's micro-batch."""

import asyncio
import hashlib
from functools import partial
from types import MappingProxyType
from typing import Final

from keyflock_compression import parse_spec
from keyflock_server.aggregation.verdicts import AdmittedReport, Verdict
from keyflock_server.aggregation.weighting import staleness_factor, weight_of
from keyflock_server.coordinator.compute_thread import settle
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.flush_scheduler import FlushScheduler
from keyflock_server.coordinator.micro_batch import (
    AssignedCodec,
    PendingReport,
    PendingSum,
    ReportRejected,
)
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.coordinator.verdict_counter import VerdictCounter
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.protocol.messages import Report, TaskKind
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.codec_choice import codec_table_of

_CODES: Final = MappingProxyType(
    {
        Verdict.WRONG_LAYOUT: ProblemCode.WRONG_LAYOUT,
        Verdict.NON_FINITE: ProblemCode.NON_FINITE_DELTA,
        Verdict.NORM_EXCEEDED: ProblemCode.DELTA_TOO_LARGE,
        Verdict.EVIDENCE_BOUND: ProblemCode.DELTA_TOO_LARGE,
        Verdict.TOO_MANY_EXAMPLES: ProblemCode.TOO_MANY_EXAMPLES,
    }
)


class ReportIntake:
    """Adds reports to micro-batches, and has them flushed.

    What was begun is finished even if the phone hangs up: its report is in the batch, or its entry is gone.
    """

    def __init__(
        self,
        deps: Dependencies,
        flushes: FlushScheduler,
        verdict_counter: VerdictCounter,
        quarantines: QuarantineService,
    ) -> None:
        self._deps = deps
        self._flushes = flushes
        self._verdict_counter = verdict_counter
        self._quarantines = quarantines

    async def add(
        self, state: TaskState, opened: OpenRound, claims: AssignmentClaims, message: Report
    ) -> PendingReport:
        """Add a report that the round has not seen yet; return once it is summed, and waits for its commit.

        Raises:
            ApiError: ``overloaded``, ``quarantined``, or what is wrong with the report. Nothing was added.
        """
        self._quarantines.check(claims.device)
        opened.report_arrivals[claims.assignment] = self._deps.clock()
        if len(opened.batch) >= self._deps.max_pending_reports:
            raise ApiError(ProblemCode.OVERLOADED, "Too many reports wait to be counted.")
        # Below zero when another process has closed this buffer, and the phone has the model of the next.
        staleness = max(0, opened.round.base_version - claims.model_version)
        loop = asyncio.get_running_loop()
        pending = PendingReport(
            claims.assignment,
            claims.round,
            claims.device,
            message.delta,
            message.examples,
            weight_of(message.examples, opened.round.spec.aggregation) * staleness_factor(staleness),
            message.session_shape,
            self._deps.clock(),
            loop.create_future(),
        )
        codec = _assigned_codec(opened, claims)
        added: asyncio.Future[asyncio.Task[None] | None] = loop.create_future()
        opened.batch.reserve(pending)
        self._deps.compute.submit(
            partial(self._added, state, opened, pending.id, added),
            _add,
            opened.batch.sum,
            pending,
            codec,
            _max_examples(opened),
        )
        try:
            flush = await added
        except ReportRejected as refusal:
            await self._quarantines.record_violation(opened, claims.device, refusal.verdict)
            code = _CODES.get(refusal.verdict, ProblemCode.MALFORMED_DELTA)
            raise ApiError(code, f"{refusal}.") from None
        if flush is not None:
            await asyncio.shield(flush)
        return pending

    def _added(
        self,
        state: TaskState,
        opened: OpenRound,
        assignment: AssignmentId,
        added: "asyncio.Future[asyncio.Task[None] | None]",
        result: AdmittedReport | None,
        error: BaseException | None,
    ) -> None:
        """Go on with a report that was added or refused, even if its request has ended."""
        flush = None
        if result is not None:
            self._verdict_counter.add(state.task, opened.id, result.counts)
            flush = self._flushes.report_added(state)
        else:
            # Nothing was added: the entry must not wait for ever.
            opened.batch.withdraw(assignment)
            if isinstance(error, ReportRejected):
                self._verdict_counter.add(state.task, opened.id, {error.verdict: 1})
        settle(added, flush, error)


def report_digest(delta: bytes, examples: int) -> bytes:
    """Return the SHA-256 by which a repetition of a report is known."""
    hasher = hashlib.sha256(delta)
    hasher.update(examples.to_bytes(4, "big"))
    return hasher.digest()


def _add(
    pending_sum: PendingSum, report: PendingReport, codec: AssignedCodec, max_examples: int | None
) -> AdmittedReport:
    """Add a report to the sum, on a compute thread; raises ReportRejected."""
    if max_examples is not None and report.examples > max_examples:
        detail = f"{report.examples} examples, where the assignment lets a phone use {max_examples}"
        raise ReportRejected(Verdict.TOO_MANY_EXAMPLES, detail)
    digest = report_digest(report.delta, report.examples)
    return pending_sum.add(report.id, report.delta, codec, report.weight, digest)


def _assigned_codec(opened: OpenRound, claims: AssignmentClaims) -> AssignedCodec:
    wire = tuple(claims.codec.items())
    known = opened.codecs.get(wire)
    if known is None:
        spec = parse_spec(claims.codec)
        known = opened.codecs[wire] = spec, codec_table_of(opened.round.spec, spec)
    spec, table = known
    return AssignedCodec(spec, claims.seed, table)


def _max_examples(opened: OpenRound) -> int | None:
    """Return how many examples a report may claim; below, the weight's cap bounds a false claim."""
    spec = opened.round.spec
    return spec.training.max_examples if spec.kind is TaskKind.TRAIN else None
