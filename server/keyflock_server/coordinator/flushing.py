"""The flush: blob first, then one transaction, then the acknowledgements. docs/decisions/0004."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.micro_batch import Outcome, PendingReport, Taken
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.rounds.decisions import may_flush
from keyflock_server.rounds.round import Counted, Phase, advance
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.records import AssignmentState, CountedReport


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

    async def flush(self, desk: Desk, opened: OpenRound, may_take: Callable[[int], bool]) -> None:
        """Commit what is pending now. The caller holds ``desk.turn``.

        Args:
            desk: Whose round it is.
            opened: The round.
            may_take: Whether so many reports may be committed; asked when no more can come in between.

        Guarantees:
            A report is acknowledged if and only if the transaction that counts it has been committed. When
            the store fails, nobody is acknowledged, and the batch is as it was.
        """
        world = self._world
        began_s = time.perf_counter()
        taken = await world.workbench.run(opened.batch.sum.take, may_take)
        if taken is None:
            return
        key = f"partials/{opened.id}/{world.new_id()}"
        try:
            committed = await world.workbench.run(opened.committed.merged, taken.sum)
            await world.blobs.put(key, await world.workbench.run(committed.to_bytes))
            superseded_key = await self._commit(desk, opened, taken, key)
        except Exception as error:  # noqa: BLE001 - whatever failed, the batch must not be lost
            await world.workbench.run(opened.batch.sum.give_back, taken)
            world.observer.flush_failed(desk.task, error)
            return
        opened.committed = committed
        opened.batch.settle(taken.devices, Outcome.COUNTED)
        world.observer.flushed(desk.task, len(taken.devices), time.perf_counter() - began_s)
        if superseded_key is not None:
            # An orphan is collected at the next start; the reports are counted all the same.
            with contextlib.suppress(StorageError):
                await world.blobs.delete(superseded_key)

    async def _commit(self, desk: Desk, opened: OpenRound, taken: Taken, key: str) -> str | None:
        """The transaction. Returns the key of the partial aggregate that it replaces."""
        world = self._world
        reports = opened.batch.named(taken.devices)
        async with desk.lock:
            now, before = world.clock(), opened.record
            counted = Counted(len(reports), sum(report.weight for report in reports))
            after = replace(before, round=advance(before.round, counted, now), partial_key=key)
            try:
                await world.store.rounds.commit_flush(after, [_row(report) for report in reports], now)
            except Exception:
                # The store may have committed and lost the answer: its row tells.
                stored = await world.store.rounds.get(opened.id)
                if stored is None or stored.partial_key != key:
                    raise
            opened.record = after
            for report in reports:
                opened.members[report.device] = replace(
                    opened.members[report.device],
                    state=AssignmentState.COUNTED,
                    report_digest=report.digest,
                    weight=report.weight,
                )
        return before.partial_key


def _row(report: PendingReport) -> CountedReport:
    return CountedReport(
        device=report.device,
        report_digest=report.digest,
        weight=report.weight,
        session_shape=f"{report.session_shape}^"[-32:],
    )
