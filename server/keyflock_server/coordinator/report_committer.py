"""A flush writes a blob, then commits one transaction, then acknowledges. docs/decisions/0004 and 0024."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.micro_batch import FlushBatch, PendingReport, ReportOutcome
from keyflock_server.coordinator.task_state import OpenRound, TaskState, UnsureFlush
from keyflock_server.rounds.decisions import Pending, is_enough, may_flush
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import AssignmentsNotOpen, PartialSuperseded, StorageError, Superseded
from keyflock_server.storage.interfaces.group_writer import CountReports
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    PartialRecord,
)


class ReportCommitter:
    """Commits micro-batches."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def flush_if_due(self, state: TaskState) -> None:
        """Commit the pending reports if the plan allows it now."""
        async with state.round_lock:
            opened = state.open_round
            if opened is not None and opened.round.phase is Phase.COLLECTING:
                await self.flush(state, opened, partial(may_flush, opened.round))

    async def flush(self, state: TaskState, opened: OpenRound, may_take: Callable[[Pending], bool]) -> None:
        """Commit what is pending now. The caller holds ``state.round_lock``.

        Args:
            state: The task.
            opened: Its round.
            may_take: Whether the pending reports may be committed; asked when no more can come in between.

        Guarantees:
            A report is acknowledged if and only if the transaction that counts it has been committed. When
            the store fails, no report is acknowledged, and the batch is unchanged. A report that another
            process has counted is left out; so is one of a flush that seemed lost and was committed late.
        """
        began_s = time.perf_counter()
        try:
            await self._settle_unsure(opened)
            taken = await self._deps.compute.run(opened.batch.sum.take, may_take)
        except Exception as error:  # noqa: BLE001 - the store is unreachable; the next pass asks again
            self._deps.observer.flush_failed(state.task, error)
            return
        has_moved = False
        while taken is not None:
            try:
                superseded_key = await self._commit(state, opened, taken)
            except AssignmentsNotOpen as error:
                self._settle_counted_elsewhere(opened, taken, error)
                taken = await self._deps.compute.run(opened.batch.sum.without, taken, error.missing)
                if not is_enough(opened.round, taken.size):
                    await self._deps.compute.run(opened.batch.sum.give_back, taken)
                    return
            except PartialSuperseded as error:
                opened.is_committed_known = False
                if has_moved:  # reloaded, and moved again: no other process writes this row, so give up
                    await self._deps.compute.run(opened.batch.sum.give_back, taken)
                    self._deps.observer.flush_failed(state.task, error)
                    return
                has_moved = True
            except Superseded:
                # Another process has closed the round; pending reports are answered once its row is read.
                await self._deps.compute.run(opened.batch.sum.give_back, taken)
                return
            except Exception as error:  # noqa: BLE001 - whatever failed, the batch must not be lost
                if opened.unsure is None:
                    await self._deps.compute.run(opened.batch.sum.give_back, taken)
                with contextlib.suppress(Exception):  # still unreachable: the next flush asks first
                    await self._settle_unsure(opened)
                self._deps.observer.flush_failed(state.task, error)
                return
            else:
                self._deps.observer.flushed(state.task, len(taken.ids), time.perf_counter() - began_s)
                if superseded_key is not None:
                    # An orphan is collected in time; the reports are counted all the same.
                    with contextlib.suppress(StorageError):
                        await self._deps.blobs.delete(superseded_key)
                return

    async def _commit(self, state: TaskState, opened: OpenRound, taken: FlushBatch) -> str | None:
        """Commit the transaction; return the key of the partial aggregate that it replaces."""
        deps = self._deps
        if not opened.is_committed_known:
            await self._reload_committed(opened)
        key = f"partials/{opened.id}/{deps.replica}/{deps.new_id()}"
        committed = await deps.compute.run(opened.committed.merged, taken.sum)
        await deps.blobs.put(key, await deps.compute.run(committed.to_bytes))
        row = PartialRecord(
            round_id=opened.id,
            replica=opened.partial_name,
            key=key,
            count=committed.count,
            weight=committed.weight,
        )
        reports = opened.batch.reports_for(taken.ids)
        async with state.row_lock:
            try:
                rows = [_row(report) for report in reports]
                after = await deps.writes.submit(CountReports(row, rows, deps.clock(), opened.committed_key))
            except (AssignmentsNotOpen, PartialSuperseded, Superseded):
                with contextlib.suppress(StorageError):
                    await deps.blobs.delete(key)
                raise
            except Exception:
                # The store may have committed and lost the answer: its row will show it.
                opened.unsure = UnsureFlush(taken, committed, key)
                raise
            before_key = opened.committed_key
            opened.refresh(after)
            self._adopt(opened, taken, committed, key)
        return before_key

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
        reports = opened.batch.reports_for(taken.ids)
        opened.committed, opened.committed_key = committed, key
        self._deps.activity.contributed((report.device for report in reports), self._deps.clock())
        known = [report for report in reports if report.id in opened.members]
        opened.members.update((report.id, _counted(opened.members[report.id], report)) for report in known)
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
            opened.batch.settle([report.id], _outcome(report, row))


def _outcome(report: PendingReport, row: AssignmentRecord | None) -> ReportOutcome:
    if row is None or row.state is not AssignmentState.COUNTED:
        return ReportOutcome.ROUND_GONE
    return ReportOutcome.COUNTED if row.report_digest == report.digest else ReportOutcome.CONFLICT


def _counted(before: AssignmentRecord, report: PendingReport) -> AssignmentRecord:
    """Return a counted assignment as far as this process asks of it; the store has the whole row."""
    return replace(before, state=AssignmentState.COUNTED, report_digest=report.digest)


def _row(report: PendingReport) -> CountedReport:
    return CountedReport(
        id=report.id,
        round_id=report.round_id,
        device=report.device,
        report_digest=report.digest,
        weight=report.weight,
        session_shape=f"{report.session_shape}^"[-32:],
        received_at=report.received_at,
    )
