"""The round driver opens a task's next round, ends what is due, and follows other processes."""

import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from keyflock_server.audit.context import POLICY, AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.error_texts import error_text
from keyflock_server.coordinator.expiry import Expiry
from keyflock_server.coordinator.leadership import Leadership
from keyflock_server.coordinator.micro_batch import ReportOutcome
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.report_committer import ReportCommitter
from keyflock_server.coordinator.round_finalizer import RoundFinalizer
from keyflock_server.coordinator.round_opening import RoundOpening
from keyflock_server.coordinator.round_preparation import PreparedRound, RoundPreparation
from keyflock_server.coordinator.stop_rules import StopRules
from keyflock_server.coordinator.task_state import OpenRound, TaskState, validator_for
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId
from keyflock_server.rounds.decisions import CLOCKS_DIFFER, DESERTED_AFTER_WINDOWS, Due, due
from keyflock_server.rounds.discarding import (
    cancelled_while_collecting,
    cancelled_while_held,
    cancelled_while_stuck,
)
from keyflock_server.rounds.round import (
    Abandoned,
    Accepted,
    Cancelled,
    Carried,
    CloseRequested,
    DeadlineReset,
    Discarded,
    Phase,
    Round,
    RoundEvent,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import AlreadyExists, StorageUnavailable, Superseded
from keyflock_server.storage.records import RoundRecord

#: What an operator may decide of a round.
OperatorEvent = Accepted | Discarded | CloseRequested | Abandoned
#: Time after the deadline in which the other replicas flush their pending reports.
_PEER_FLUSH_TIME = timedelta(seconds=2)


class RoundDriver:
    """Opens, ends and syncs rounds. Every public method acquires ``state.round_lock``."""

    def __init__(
        self,
        deps: Dependencies,
        models: ModelStore,
        flusher: ReportCommitter,
        leadership: Leadership,
        scales: TaskScales,
        preparation: RoundPreparation,
        opening: RoundOpening,
    ) -> None:
        self._deps = deps
        self._opening = opening
        self._preparation = preparation
        self._models = models
        self._flusher = flusher
        self._leadership = leadership
        self._scales = scales
        self._finalizer = RoundFinalizer(deps, models, scales)
        self._stop_rules = StopRules(deps)
        self._expiry = Expiry(deps)

    async def sync(self, state: TaskState, status: TaskStatus, record: RoundRecord | None) -> None:
        """Adopt the task's status and unfinished round from the store."""
        async with state.round_lock:
            state.status = status
            opened = state.open_round
            held = None if opened is None or opened.round.is_over else opened.id
            if (None if record is None else record.round.id) != held:
                # Since then this process may have closed it and opened another: read it under the lock.
                unfinished = await self._deps.store.rounds.unfinished([])
                record = next((one for one in unfinished if one.round.task == state.task), None)
            if record is None:
                # No buffer will take over what waits in that of a task that is over.
                if opened is not None and (status.is_over or not opened.round.is_over):
                    self._detach(state, opened)
            elif opened is None or opened.id != record.round.id:
                await self._attach(state, record)
            else:
                opened.refresh(record)
                _discard_pending_if_held(opened)
            if state.open_round is not None:
                state.open_round.watch_slots(self._deps.clock())
                if state.open_round.round.is_async:
                    await self._count_training(state, state.open_round.round)
            self._settle_late_reports(state)

    async def drive(self, state: TaskState) -> None:
        """Do what is due for this task now: flush; the leader also closes, abandons and opens rounds."""
        if state.open_round is not None and len(state.open_round.batch):
            await self._flusher.flush_if_due(state)
        if not self._leadership.is_leader:
            await self._flush_at_deadline(state)
            return
        if state.status is TaskStatus.CANCELLED:
            await self.cancel(state)
        async with state.flush_lock, state.round_lock:
            # Another process may have been first; the next pass reads what has become of the round.
            with contextlib.suppress(Superseded):
                if state.open_round is not None and not state.open_round.round.is_over:
                    await self._expiry.expire_due(
                        state, state.open_round, has_peers=bool(self._leadership.peers)
                    )
                    await self._end_if_due(state, state.open_round)
                if state.open_round is None or state.open_round.round.is_over:
                    await self._finish_or_open(state)

    async def cancel(self, state: TaskState) -> None:
        """End the task and its open round.

        A round that is closing already is closed, if it can be: what it needs may be lost for good, and then
        it ends with the reason. If the store only does not answer now, the next call tries again. If another
        process is ending the round at this moment, the next pass reads the result.
        """
        async with state.round_lock:
            with contextlib.suppress(Superseded):
                await self._cancel(state)

    async def _cancel(self, state: TaskState) -> None:
        opened = state.open_round
        if opened is not None and opened.round.phase is Phase.COLLECTING:
            await self._end_without_version(state, opened, cancelled_while_collecting(opened.round))
        elif opened is not None and not opened.round.is_over:
            try:
                await self._close(state, opened)
                if opened.is_held:
                    await self._end_without_version(state, opened, cancelled_while_held(opened.round))
            except StorageUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever keeps it from closing, it must end
                lost = cancelled_while_stuck(opened.round, error_text(error))
                await self._end_without_version(state, opened, lost)
        if state.open_round is not None:
            self._detach(state, state.open_round)

    async def decide(
        self, state: TaskState, round_id: RoundId, event: OperatorEvent, audit: AuditContext
    ) -> None:
        """Store an operator's decision on a round; the leader closes, or publishes, it with its next pass.

        Raises:
            Superseded: the decision does not apply to the round as it stands.
        """
        async with state.round_lock:
            opened = state.open_round
            now = self._deps.clock()
            record = await self._deps.store.rounds.advance(round_id, event, now, {}, audit=audit)
            if opened is not None and opened.id == round_id:
                opened.record = record
                self._settle_late_reports(state)
                if record.round.is_over:
                    self._report_end(state, record.round, record.round.phase)
                    self._detach(state, opened)
            if record.round.is_over:
                await self.delete_leftovers(record)

    async def carry(self, state: TaskState, round_id: RoundId, detail: str, audit: AuditContext) -> bool:
        """Carry an open round's reports for an operator, who holds ``flush_lock``; False if it cannot be."""
        async with state.round_lock:
            opened = state.open_round
            if opened is None or opened.id != round_id or opened.round.phase is not Phase.COLLECTING:
                return False
            return opened.unsure is None and await self._carry(state, opened, detail, audit)

    async def delete_leftovers(self, record: RoundRecord) -> None:
        """Delete the blobs and partial sums of a round that ended without a version."""
        await self._finalizer.delete_partials(record)
        await self.delete_blobs(record.blob_keys)

    async def delete_blobs(self, keys: Iterable[str]) -> None:
        """Delete blobs that no row points to any more."""
        await self._finalizer.delete_blobs(keys)

    def _detach(self, state: TaskState, opened: OpenRound) -> None:
        state.open_round = None
        opened.batch.settle_all(ReportOutcome.ROUND_GONE)

    async def _attach(
        self, state: TaskState, record: RoundRecord, prepared: PreparedRound | None = None
    ) -> None:
        """Attach a round that is new to this process: another one's, or its own before a restart."""
        layout = await self._models.report_layout(record.round.spec)
        # A round that an earlier release has opened has no scales of its own.
        scales = record.norm_scales_json or await self._scales.next_scales(record.round.spec)
        # Read before the round can be found: a report that comes in between must not escape the check.
        withdrawn = await self._withdrawn_versions(record.round)
        prepared = prepared or await self._preparation.prepare(state, record.round)
        before = state.open_round
        is_same_buffer = before is not None and before.round.is_async and record.round.is_async
        # Pending reports from before a rollback may come from a withdrawn version: they are dropped.
        has_batch = before is not None and is_same_buffer and withdrawn <= before.withdrawn
        batch = before.batch if before is not None and has_batch else None
        state.rounds_attached += 1
        name = f"{self._deps.replica}.{state.rounds_attached}"
        state.open_round = OpenRound(record, name, layout, validator_for(record.round.spec, scales), batch)
        state.open_round.withdrawn = withdrawn
        prepared.hand_over(state.open_round, before, self._deps)
        if before is not None and is_same_buffer:
            state.open_round.report_arrivals = self._recent_arrivals(before)
        state.last_sequence = record.round.sequence
        if before is not None and batch is None:
            before.batch.settle_all(ReportOutcome.ROUND_GONE)

    def _recent_arrivals(self, before: OpenRound) -> dict[AssignmentId, datetime]:
        """Return arrivals whose assignments may expire only while the next buffer is open."""
        since = self._deps.clock() - 2 * timedelta(seconds=before.round.spec.round.deadline_s)
        return {id_: at for id_, at in before.report_arrivals.items() if at >= since}

    async def _withdrawn_versions(self, current: Round) -> frozenset[ModelVersion]:
        if not current.is_async:
            return frozenset()
        return await self._deps.store.populations.withdrawn(current.population)

    async def _count_training(self, state: TaskState, current: Round) -> None:
        now = self._deps.clock()
        # The deadline may have been changed since; an assignment may come from a round with the longer one.
        since = now - timedelta(seconds=max(current.spec.round.deadline_s, state.spec.round.deadline_s))
        # Assignments that a wrong clock dated into the future must not take slots until then.
        state.devices_training = await self._deps.store.assignments.count_outstanding(
            state.task, since, now + CLOCKS_DIFFER
        )

    def _settle_late_reports(self, state: TaskState) -> None:
        """Answer reports that wait for a round that another process is closing: they are too late."""
        opened = state.open_round
        if opened is None or opened.round.is_async or opened.unsure is not None:
            return
        if opened.round.phase is not Phase.COLLECTING:
            opened.batch.settle_all(ReportOutcome.ROUND_GONE)

    async def _flush_at_deadline(self, state: TaskState) -> None:
        async with state.flush_lock, state.round_lock:
            opened = state.open_round
            if opened is None or opened.round.is_async or opened.round.phase is not Phase.COLLECTING:
                return
            if self._deps.clock() >= opened.round.deadline_at:
                await self._flusher.flush_rest(state, opened)

    async def _finish_or_open(self, state: TaskState) -> None:
        if state.status.is_over:
            return
        limit = state.spec.round.max_rounds
        opened, closed = await self._deps.store.rounds.count(state.task)
        if limit is not None and closed >= limit:
            await self._finish(state, f"It has closed {closed} rounds.")
        elif state.status is TaskStatus.ACTIVE:
            if reason := await self._stop_rules.reason_to_end(state.spec):
                await self._finish(state, reason)
            else:
                await self._open_next(state, opened + 1)

    async def _finish(self, state: TaskState, reason: str) -> None:
        """End a task that has done what it was made for."""
        context = AuditContext(
            operator=POLICY, role="server", reason=reason, action="task.finish", at=self._deps.clock()
        )
        tasks = self._deps.store.tasks
        await tasks.set_status(state.task, TaskStatus.FINISHED, reason=reason, audit=context)
        state.status = TaskStatus.FINISHED
        if state.open_round is not None:
            self._detach(state, state.open_round)

    async def _open_next(self, state: TaskState, sequence: int) -> None:
        record = await self._opening.next_round(state.spec, sequence)
        if record is None:
            return  # an ``evaluate`` task without two versions to compare waits
        # Read before the row is there: phones may come as soon as operators see it.
        prepared = await self._preparation.prepare(state, record.round)
        try:
            await self._deps.store.rounds.add(record)
        except AlreadyExists:
            return  # another process has added it; the next pass reads it
        await self._attach(state, record, prepared)
        self._deps.observer.round_opened(state.task, sequence)

    async def _end_if_due(self, state: TaskState, opened: OpenRound) -> None:
        if opened.round.phase is not Phase.COLLECTING:
            await self._close(state, opened)
            return
        now = self._deps.clock()
        is_met = opened.round.reports >= opened.round.spec.round.goal
        moot = await self._opening.moot_reason(state.spec, opened.round)
        is_waiting = self._leadership.peers and now < opened.round.deadline_at + _PEER_FLUSH_TIME
        if is_waiting and not is_met and not moot:
            return
        is_deserted = _is_deserted(state, opened, now)
        match due(opened.round, opened.batch.sum.size, now, is_deserted=is_deserted, is_moot=bool(moot)):
            case Due.NOTHING:
                return
            case Due.RESET_DEADLINE:
                await self._advance(state, opened, DeadlineReset())
            case Due.ABANDON:
                await self._end_without_version(state, opened, _abandoned(opened.round, moot))
            case Due.CARRY:
                await self._flusher.flush_rest(state, opened)
                if not await self._carry(state, opened, _shortfall(opened.round)):
                    await self._end_without_version(state, opened, _abandoned(opened.round))
            case Due.CLOSE:
                await self._flusher.flush_rest(state, opened)
                if opened.unsure is not None:
                    return  # the next buffer would take over reports whose sum is not in it
                # The flush may have failed: ask again.
                if opened.round.reports >= opened.round.spec.round.minimum_reports:
                    await self._advance(state, opened, CloseRequested())
                    await self._expiry.end(state, opened)
                    if not opened.round.is_async:
                        opened.batch.settle_all(ReportOutcome.ROUND_GONE)
                    await self._close(state, opened)

    async def _carry(
        self, state: TaskState, opened: OpenRound, detail: str, audit: AuditContext | None = None
    ) -> bool:
        """Carry the reports into the next round, unless the model has changed and they are useless."""
        current = opened.round
        following = await self._opening.next_round(state.spec, current.sequence + 1)
        is_same = following is not None and following.round.base_version == current.base_version
        if following is None or not is_same or current.reports == 0:
            return False
        carried = await self._deps.store.rounds.carry(opened.id, Carried(detail), following, audit=audit)
        await self._expiry.end(state, opened)
        await self._deps.store.rounds.clear_up(opened.id)
        self._report_end(state, current, Phase.CARRIED)
        await self._attach(state, carried)
        self._deps.observer.round_opened(state.task, carried.round.sequence)
        return True

    async def _close(self, state: TaskState, opened: OpenRound) -> None:
        opened.record = await self._finalizer.finish(opened.record)
        if opened.round.is_over:
            self._finish_round(state, opened)
        _discard_pending_if_held(opened)

    async def _end_without_version(
        self, state: TaskState, opened: OpenRound, event: Abandoned | Cancelled
    ) -> None:
        await self._advance(state, opened, event)
        if isinstance(event, Abandoned):
            await self._expiry.end(state, opened)
        opened.batch.settle_all(ReportOutcome.ROUND_GONE)
        await self.delete_leftovers(opened.record)
        self._finish_round(state, opened)

    async def _advance(self, state: TaskState, opened: OpenRound, event: RoundEvent) -> None:
        """Write the row first, then memory: an error in between must leave memory unchanged."""
        async with state.row_lock:
            opened.record = await self._deps.store.rounds.advance(opened.id, event, self._deps.clock(), {})

    def _finish_round(self, state: TaskState, opened: OpenRound) -> None:
        if opened.round.phase is Phase.DISCARDED:
            self._detach(state, opened)
        elif not opened.round.is_async:
            state.open_round = None  # a buffer stays until the next one takes over what waits
        self._report_end(state, opened.round, opened.round.phase)

    def _report_end(self, state: TaskState, ended: Round, phase: Phase) -> None:
        ended_at = ended.closed_at or self._deps.clock()
        duration_s = (ended_at - ended.opened_at).total_seconds()
        self._deps.observer.round_ended(state.task, ended.sequence, phase, ended.reports, duration_s)


def _is_deserted(state: TaskState, opened: OpenRound, now: datetime) -> bool:
    """Return whether no phone is left for the free slots: all of them meet, and none took one for long."""
    meets = state.spread_s == 0.0
    return meets and opened.idle_s(now) >= DESERTED_AFTER_WINDOWS * state.selection_window_s


def _discard_pending_if_held(opened: OpenRound) -> None:
    """Answer reports that wait for the buffer after a held one: there is none."""
    if opened.is_held and len(opened.batch):
        opened.discard_pending()


def _abandoned(current: Round, moot: str = "") -> Abandoned:
    return Abandoned(_shortfall(current, moot), current.reports)


def _shortfall(current: Round, moot: str = "") -> str:
    came = (
        f"{moot} {current.reports} reports had come" if moot else f"{current.reports} reports by the deadline"
    )
    return f"{came}; the minimum was {current.spec.round.minimum_reports}."
