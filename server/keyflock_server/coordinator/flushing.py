"""The flush: blob first, then one transaction, then the acknowledgements. docs/decisions/0004 and 0024."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator.desk import Desk, OpenRound, UnsureFlush
from keyflock_server.coordinator.micro_batch import Outcome, PendingReport, Taken
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.rounds.decisions import Pending, is_enough, may_flush
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import NotOpen, PartialMoved, StorageError, Superseded
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    PartialRecord,
)


class Flusher:
    """Commits micro-batches."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    async def flush_if_due(self, desk: Desk) -> None:
        """Commit the pending reports if the plan allows it now."""
        async with desk.turn:
            opened = desk.open
            if opened is not None and opened.round.phase is Phase.COLLECTING:
                await self.flush(desk, opened, partial(may_flush, opened.round))

    async def flush(self, desk: Desk, opened: OpenRound, may_take: Callable[[Pending], bool]) -> None:
        """Commit what is pending now. The caller holds ``desk.turn``.

        Args:
            desk: Whose round it is.
            opened: The round.
            may_take: Whether what is pending may be committed; asked when no more can come in between.

        Guarantees:
            A report is acknowledged if and only if the transaction that counts it has been committed. When
            the store fails, nobody is acknowledged, and the batch is as it was. A report that another process
            has counted is left out; so is one of a flush that was believed lost, and was committed late.
        """
        began_s = time.perf_counter()
        try:
            await self._settle_unsure(opened)
            taken = await self._world.workbench.run(opened.batch.sum.take, may_take)
        except Exception as error:  # noqa: BLE001 - the store is away; the next pass asks again
            self._world.observer.flush_failed(desk.task, error)
            return
        has_moved = False
        while taken is not None and taken.ids:
            try:
                superseded_key = await self._commit(desk, opened, taken)
            except NotOpen as error:
                self._settle_elsewhere(opened, taken, error)
                taken = await self._world.workbench.run(opened.batch.sum.without, taken, error.missing)
                if not is_enough(opened.round, taken.size):
                    await self._world.workbench.run(opened.batch.sum.give_back, taken)
                    return
            except PartialMoved as error:
                opened.is_committed_known = False
                if has_moved:  # read anew, and moved again: nobody else writes this row, so do not insist
                    await self._world.workbench.run(opened.batch.sum.give_back, taken)
                    self._world.observer.flush_failed(desk.task, error)
                    return
                has_moved = True
            except Superseded:
                # Another process has closed the round; what waits is told so when the row has been read.
                await self._world.workbench.run(opened.batch.sum.give_back, taken)
                return
            except Exception as error:  # noqa: BLE001 - whatever failed, the batch must not be lost
                if opened.unsure is None:
                    await self._world.workbench.run(opened.batch.sum.give_back, taken)
                with contextlib.suppress(Exception):  # still away: the next flush begins with the question
                    await self._settle_unsure(opened)
                self._world.observer.flush_failed(desk.task, error)
                return
            else:
                self._world.observer.flushed(desk.task, len(taken.ids), time.perf_counter() - began_s)
                if superseded_key is not None:
                    # An orphan is collected in time; the reports are counted all the same.
                    with contextlib.suppress(StorageError):
                        await self._world.blobs.delete(superseded_key)
                return

    async def _commit(self, desk: Desk, opened: OpenRound, taken: Taken) -> str | None:
        """The transaction. Returns the key of the partial aggregate that it replaces."""
        world = self._world
        if not opened.is_committed_known:
            await self._learn_committed(opened)
        key = f"partials/{opened.id}/{world.replica}/{world.new_id()}"
        committed = await world.workbench.run(opened.committed.merged, taken.sum)
        await world.blobs.put(key, await world.workbench.run(committed.to_bytes))
        row = PartialRecord(
            round_id=opened.id,
            replica=opened.partial,
            key=key,
            count=committed.count,
            weight=committed.weight,
        )
        reports = opened.batch.named(taken.ids)
        async with desk.lock:
            try:
                after = await world.store.rounds.commit_flush(
                    row, [_row(report) for report in reports], world.clock(), opened.committed_key
                )
            except (NotOpen, PartialMoved, Superseded):
                with contextlib.suppress(StorageError):
                    await world.blobs.delete(key)
                raise
            except Exception:
                # The store may have committed and lost the answer: its row will tell.
                opened.unsure = UnsureFlush(taken, committed, key)
                raise
            before_key = opened.committed_key
            opened.learn(after)
            self._adopt(opened, taken, committed, key)
        return before_key

    async def _settle_unsure(self, opened: OpenRound) -> None:
        """Find out what became of a flush that was not answered."""
        unsure = opened.unsure
        if unsure is None:
            return
        rows = await self._world.store.rounds.partials(opened.id)
        opened.unsure = None
        if any(row.replica == opened.partial and row.key == unsure.key for row in rows):
            self._adopt(opened, unsure.taken, unsure.committed, unsure.key)
        else:
            await self._world.workbench.run(opened.batch.sum.give_back, unsure.taken)

    async def _learn_committed(self, opened: OpenRound) -> None:
        """What this process has in the store: a flush that it took for lost was committed after all."""
        world = self._world
        rows = await world.store.rounds.partials(opened.id)
        mine = next((row for row in rows if row.replica == opened.partial), None)
        committed = PartialAggregate(opened.committed.sum.size)
        if mine is not None:
            data = await world.blobs.get(mine.key)
            committed = await world.workbench.run(PartialAggregate.from_bytes, data, committed.sum.size)
        opened.committed, opened.committed_key = committed, mine.key if mine else None
        opened.is_committed_known = True

    def _adopt(self, opened: OpenRound, taken: Taken, committed: PartialAggregate, key: str) -> None:
        """The batch is durable: acknowledge."""
        reports = opened.batch.named(taken.ids)
        opened.committed, opened.committed_key = committed, key
        known = [report for report in reports if report.id in opened.members]
        opened.members.update((report.id, _counted(opened, report)) for report in known)
        opened.batch.settle(taken.ids, Outcome.COUNTED)

    def _settle_elsewhere(self, opened: OpenRound, taken: Taken, error: NotOpen) -> None:
        """Reports whose assignment another process has settled meanwhile."""
        rows = {row.id: row for row in error.rows}
        for report in opened.batch.named([id_ for id_ in taken.ids if id_ in error.missing]):
            row = rows.get(report.id)
            if row is not None:
                opened.members[row.id] = row
            opened.batch.settle([report.id], _outcome(report, row))


def _outcome(report: PendingReport, row: AssignmentRecord | None) -> Outcome:
    if row is None or row.state is not AssignmentState.COUNTED:
        return Outcome.ROUND_GONE
    return Outcome.COUNTED if row.report_digest == report.digest else Outcome.CONFLICT


def _counted(opened: OpenRound, report: PendingReport) -> AssignmentRecord:
    before = opened.members[report.id]
    return replace(
        before,
        state=AssignmentState.COUNTED,
        report_digest=report.digest,
        weight=report.weight,
        counted_in=opened.id,
    )


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
