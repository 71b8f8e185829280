"""A flush writes a blob, then commits one transaction, then acknowledges.

Source: docs/decisions/0004, 0024 and 0050.
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.flush_pace import FlushPace, flush_interval_s
from keyflock_server.coordinator.micro_batch import FlushBatch, PendingReport, PendingSum, ReportOutcome
from keyflock_server.coordinator.task_state import OpenRound, TaskState, UnsureFlush
from keyflock_server.rounds.decisions import Pending, is_enough, is_goal_met, may_flush
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import AssignmentsNotOpen, PartialSuperseded, StorageError, Superseded
from keyflock_server.storage.interfaces.group_writer import CountReports
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    PartialRecord,
    RoundRecord,
)


@dataclass(frozen=True, slots=True)
class PreparedFlush:
    """A batch that was taken, and the bytes of the sum that it makes."""

    batch: FlushBatch
    #: What this process has committed in the round, and the batch.
    committed: PartialAggregate
    data: bytes
    #: When it was taken, on the event loop's clock.
    began_s: float
    #: Time on the CPU that all this took.
    compute_s: float


class ReportCommitter:
    """Commits micro-batches."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        #: Whether flushes keep an interval: on a simulation's clock nothing may depend on real time.
        self.has_interval = deps.is_real_time and deps.ack_wait_s > 0.0

    async def flush_if_due(self, state: TaskState, *, is_hurried: bool = False) -> bool:
        """Commit the pending reports if the plan and the task's pace allow it now.

        Args:
            state: The task.
            is_hurried: Whether to begin before the interval is over.
        Returns:
            Whether nothing went wrong: what came meanwhile may be committed next.
        """
        async with state.flush_lock:
            opened = state.open_round
            if opened is None or opened.round.phase is not Phase.COLLECTING:
                return True
            may_take = partial(_may_begin, state.flush_pace, opened, is_hurried=is_hurried)
            return await self._flush(state, opened, may_take, state.round_lock)

    async def flush_rest(self, state: TaskState, opened: OpenRound) -> None:
        """Commit all that is pending, if it is enough. The caller holds ``flush_lock`` and ``round_lock``."""
        await self._flush(state, opened, partial(is_enough, opened.round), contextlib.nullcontext())

    async def _flush(
        self,
        state: TaskState,
        opened: OpenRound,
        may_take: Callable[[Pending], bool],
        round_lock: AbstractAsyncContextManager[None],
    ) -> bool:
        """Commit what is pending now. The caller holds ``state.flush_lock``.

        Args:
            state: The task.
            opened: Its round.
            may_take: Whether the pending reports may be committed; asked when no more can come in between.
            round_lock: The round's lock, or nothing where the caller holds it. It is free while the blob is
                written.

        Guarantees:
            A report is acknowledged if and only if the transaction that counts it has been committed. When
            the store fails, no report is acknowledged, and the batch is unchanged. A report that another
            process has counted is left out; so is one of a flush that seemed lost and was committed late.
        """
        try:
            if opened.unsure is not None:
                async with round_lock:
                    await self._settle_unsure(opened)
            prepared = await self._deps.compute.run(_take, opened.batch.sum, may_take, opened.committed)
        except Exception as error:  # noqa: BLE001 - the store is unreachable; the next pass asks again
            self._deps.observer.flush_failed(state.task, error)
            return False
        if prepared is None:
            return True
        interval_s = flush_interval_s(prepared.compute_s, self._deps.ack_wait_s) if self.has_interval else 0.0
        state.flush_pace.flushed(prepared.began_s, interval_s)
        return await self._commit_or_give_back(state, opened, prepared, round_lock)

    async def _commit_or_give_back(
        self,
        state: TaskState,
        opened: OpenRound,
        prepared: PreparedFlush,
        round_lock: AbstractAsyncContextManager[None],
    ) -> bool:
        deps, pending, has_moved = self._deps, opened.batch.sum, False
        while True:
            taken = prepared.batch
            try:
                if not opened.is_committed_known:
                    await self._reload_committed(opened)
                    prepared = await deps.compute.run(_prepare, taken, opened.committed, prepared.began_s)
                await self._commit(state, opened, prepared, round_lock)
            except AssignmentsNotOpen as error:
                self._settle_counted_elsewhere(opened, taken, error)
                taken = await deps.compute.run(pending.without, taken, error.missing)
                if not is_enough(opened.round, taken.size):
                    await deps.compute.run(pending.give_back, taken)
                    return True
                prepared = await deps.compute.run(_prepare, taken, opened.committed, prepared.began_s)
            except PartialSuperseded as error:
                opened.is_committed_known = False
                if has_moved:  # reloaded, and moved again: no other process writes this row, so give up
                    await deps.compute.run(pending.give_back, taken)
                    deps.observer.flush_failed(state.task, error)
                    return False
                has_moved = True
            except Superseded:
                # Another process has closed the round; pending reports are answered once its row is read.
                await deps.compute.run(pending.give_back, taken)
                return False
            except Exception as error:  # noqa: BLE001 - whatever failed, the batch must not be lost
                if opened.unsure is None:
                    await deps.compute.run(pending.give_back, taken)
                with contextlib.suppress(Exception):  # still unreachable: the next flush asks first
                    async with round_lock:
                        await self._settle_unsure(opened)
                deps.observer.flush_failed(state.task, error)
                return False
            else:
                return True

    async def _commit(
        self,
        state: TaskState,
        opened: OpenRound,
        prepared: PreparedFlush,
        round_lock: AbstractAsyncContextManager[None],
    ) -> None:
        """Write the blob, commit the transaction, and delete the blob that this one replaces."""
        deps, taken = self._deps, prepared.batch
        key = f"partials/{opened.id}/{deps.replica}/{deps.new_id()}"
        await deps.blobs.put(key, prepared.data)
        row = PartialRecord(
            round_id=opened.id,
            replica=opened.partial_name,
            key=key,
            count=prepared.committed.count,
            weight=prepared.committed.weight,
        )
        async with round_lock, state.row_lock:
            try:
                _require_open(state, opened, taken)
                after = await self._count(row, opened, taken)
            except (AssignmentsNotOpen, PartialSuperseded, Superseded):
                with contextlib.suppress(StorageError):
                    await deps.blobs.delete(key)
                raise
            except Exception:
                # The store may have committed and lost the answer: its row will show it.
                opened.unsure = UnsureFlush(taken, prepared.committed, key)
                raise
            before_key = opened.committed_key
            opened.refresh(after)
            self._adopt(opened, taken, prepared.committed, key)
        duration_s = time.monotonic() - prepared.began_s
        deps.observer.flushed(state.task, len(taken.ids), duration_s, state.flush_pace.interval_s)
        if before_key is not None:
            # An orphan is collected in time; the reports are counted all the same.
            with contextlib.suppress(StorageError):
                await deps.blobs.delete(before_key)

    async def _count(self, row: PartialRecord, opened: OpenRound, taken: FlushBatch) -> RoundRecord:
        """Commit the transaction that counts the reports of a batch."""
        reports = [
            _counted_report(report, taken.entries[report.id].report_digest)
            for report in opened.batch.reports_for(taken.ids)
        ]
        flush = CountReports(row, reports, self._deps.clock(), opened.committed_key)
        return await self._deps.writes.submit(flush)

    async def _settle_unsure(self, opened: OpenRound) -> None:
        """Find out whether a flush that was not answered was committed."""
        unsure = opened.unsure
        if unsure is None:
            return
        rows = await self._deps.store.rounds.partials(opened.id)
        opened.unsure = None
        if any(row.key == unsure.key for row in rows):
            self._adopt(opened, unsure.batch, unsure.committed, unsure.key)
        else:
            await self._deps.compute.run(opened.batch.sum.give_back, unsure.batch)

    async def _reload_committed(self, opened: OpenRound) -> None:
        """Reload this process's partial aggregate: a flush that seemed lost was committed after all."""
        deps = self._deps
        rows = await deps.store.rounds.partials(opened.id)
        mine = next((row for row in rows if row.replica == opened.partial_name), None)
        committed = PartialAggregate(opened.committed.sum.size)
        if mine is not None:
            data = await deps.blobs.get(mine.key)
            committed = await deps.compute.run(PartialAggregate.from_bytes, data, committed.sum.size)
        opened.committed, opened.committed_key = committed, mine.key if mine else None
        opened.is_committed_known = True

    def _adopt(self, opened: OpenRound, taken: FlushBatch, committed: PartialAggregate, key: str) -> None:
        """Acknowledge a batch that is durable."""
        opened.committed, opened.committed_key = committed, key
        for id_, entry in taken.entries.items():
            if (member := opened.members.get(id_)) is not None:
                opened.members[id_] = _counted(member, entry.report_digest)
        if opened.round.spec.counts_as_training:
            devices = [report.device for report in opened.batch.reports_for(taken.ids)]
            self._deps.activity.contributed(devices, self._deps.clock())
        opened.batch.settle(taken.ids, ReportOutcome.COUNTED)

    def _settle_counted_elsewhere(
        self, opened: OpenRound, taken: FlushBatch, error: AssignmentsNotOpen
    ) -> None:
        """Settle reports whose assignment another process has settled meanwhile."""
        rows = {row.id: row for row in error.rows}
        for report in opened.batch.reports_for([id_ for id_ in taken.ids if id_ in error.missing]):
            row = rows.get(report.id)
            if row is not None:
                opened.members[row.id] = row
            opened.batch.settle([report.id], _outcome(taken.entries[report.id].report_digest, row))


def _may_begin(pace: FlushPace, opened: OpenRound, pending: Pending, *, is_hurried: bool) -> bool:
    if not may_flush(opened.round, pending):
        return False
    return is_hurried or pace.rest_s(time.monotonic()) <= 0.0 or is_goal_met(opened.round, pending)


def _take(
    pending: PendingSum, may_take: Callable[[Pending], bool], committed: PartialAggregate
) -> PreparedFlush | None:
    """Take the pending reports, if ``may_take`` allows it, and serialise the sum that they make."""
    began_s = time.monotonic()
    taken = pending.take(may_take)
    if taken is None:
        return None
    try:
        return _prepare(taken, committed, began_s)
    except BaseException:
        pending.give_back(taken)
        raise


def _prepare(taken: FlushBatch, committed: PartialAggregate, began_s: float) -> PreparedFlush:
    cpu_s = time.thread_time()
    merged = committed.merged(taken.sum)
    data = merged.to_bytes()
    return PreparedFlush(taken, merged, data, began_s, time.thread_time() - cpu_s)


def _require_open(state: TaskState, opened: OpenRound, taken: FlushBatch) -> None:
    """Raise Superseded if the round has ended here while the blob was written."""
    is_open = state.open_round is opened and opened.round.phase is Phase.COLLECTING
    if not is_open or not opened.batch.still_waits_for(taken.ids):
        raise Superseded(opened.id)


def _outcome(report_digest: bytes, row: AssignmentRecord | None) -> ReportOutcome:
    if row is None or row.state is not AssignmentState.COUNTED:
        return ReportOutcome.ROUND_GONE
    return ReportOutcome.COUNTED if row.report_digest == report_digest else ReportOutcome.CONFLICT


def _counted(before: AssignmentRecord, report_digest: bytes) -> AssignmentRecord:
    """Return a counted assignment as far as this process asks of it; the store has the whole row."""
    return replace(before, state=AssignmentState.COUNTED, report_digest=report_digest)


def _counted_report(report: PendingReport, report_digest: bytes) -> CountedReport:
    return CountedReport(
        id=report.id,
        round_id=report.round_id,
        device=report.device,
        report_digest=report_digest,
        weight=report.weight,
        session_shape=f"{report.session_shape}^"[-32:],
        received_at=report.received_at,
    )
