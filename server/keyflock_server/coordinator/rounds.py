"""The life of a task's rounds: open the next, end what is due, and learn what other processes have done."""

import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from keyflock_server.aggregation.server_step import CorruptedOptimizerState, OtherOptimizer
from keyflock_server.coordinator.closing import Closing
from keyflock_server.coordinator.desk import Desk, OpenRound, judge_of
from keyflock_server.coordinator.expiry import Expiry
from keyflock_server.coordinator.flushing import Flusher
from keyflock_server.coordinator.leadership import Leadership
from keyflock_server.coordinator.micro_batch import Outcome
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.coordinator.tuning import tuned_task
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId
from keyflock_server.releases.ema import CorruptedAverage
from keyflock_server.rounds.decisions import CLOCKS_DIFFER, Due, due, is_enough
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
    Discarded,
    Event,
    Phase,
    Redated,
    Round,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.door import AlreadyExists, StorageError, StorageUnavailable, Superseded
from keyflock_server.storage.records import RoundRecord

_OUR_OWN: Final = (StorageError, CorruptedOptimizerState, OtherOptimizer, CorruptedAverage)
#: After the deadline, so that the other replicas have flushed what waits with them.
_PEERS_FLUSH = timedelta(seconds=2)


class Rounds:
    """Opens, ends and follows rounds. Every public method takes ``desk.turn``."""

    def __init__(
        self,
        world: Surroundings,
        trunk: Trunk,
        flusher: Flusher,
        leadership: Leadership,
        scales: TaskScales,
    ) -> None:
        self._world = world
        self._trunk = trunk
        self._flusher = flusher
        self._leadership = leadership
        self._scales = scales
        self._closing = Closing(world, trunk, scales)
        self._expiry = Expiry(world)

    async def follow(self, desk: Desk, status: TaskStatus, record: RoundRecord | None) -> None:
        """Take over what the store says of the task: its status, and its round that is not over."""
        async with desk.turn:
            desk.status = status
            opened = desk.open
            held = None if opened is None or opened.round.is_over else opened.id
            if (None if record is None else record.round.id) != held:
                # Since it was read, this process may have closed it and opened another: read in turn.
                unfinished = await self._world.store.rounds.unfinished([])
                record = next((one for one in unfinished if one.round.task == desk.task), None)
            if record is None:
                if opened is not None and not opened.round.is_over:
                    self._gone(desk, opened)
            elif opened is None or opened.id != record.round.id:
                await self._take_up(desk, record)
            else:
                opened.learn(record)
                _tell_of_holding(opened)
            if desk.open is not None and desk.open.round.is_async:
                await self._count_training(desk)
            self._tell_late_ones(desk)

    async def drive(self, desk: Desk) -> None:
        """Whatever is due on this desk now: flush, and for the leader close, abandon, open."""
        await self._flusher.flush_if_due(desk)
        if not self._leadership.is_leader:
            await self._flush_at_deadline(desk)
            return
        if desk.status is TaskStatus.CANCELLED:
            await self.cancel(desk)
        async with desk.turn:
            # Another process may have been first; the next pass reads what has become of the round.
            with contextlib.suppress(Superseded):
                if desk.open is not None and not desk.open.round.is_over:
                    await self._expiry.expire_due(desk, desk.open, has_peers=bool(self._leadership.peers))
                    await self._end_if_due(desk, desk.open)
                if desk.open is None or desk.open.round.is_over:
                    await self._finish_or_open(desk)

    async def cancel(self, desk: Desk) -> None:
        """End the task and its open round.

        One that is closing already closes, if it can: what it needs may be lost for good, and then it ends
        with the reason. A store that only does not answer now is waited for. Of one that another process is
        ending at this moment the next pass reads what has become of it.
        """
        async with desk.turn:
            with contextlib.suppress(Superseded):
                await self._cancel(desk)

    async def _cancel(self, desk: Desk) -> None:
        opened = desk.open
        if opened is not None and opened.round.phase is Phase.COLLECTING:
            await self._end_without_version(desk, opened, cancelled_while_collecting(opened.round))
        elif opened is not None and not opened.round.is_over:
            try:
                await self._close(desk, opened)
                if opened.is_held:
                    await self._end_without_version(desk, opened, cancelled_while_held(opened.round))
            except StorageUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever keeps it from closing, it must end
                lost = cancelled_while_stuck(opened.round, trouble(error))
                await self._end_without_version(desk, opened, lost)
        if desk.open is not None:
            self._gone(desk, desk.open)

    async def decide(self, desk: Desk, round_id: RoundId, event: Accepted | Discarded) -> None:
        """Write an operator's decision on a held round down.

        What was accepted is published with the next pass of whoever leads.

        Raises:
            Superseded: the round is not held.
        """
        async with desk.turn:
            opened = desk.open
            record = await self._world.store.rounds.advance(round_id, event, self._world.clock(), {})
            if opened is not None and opened.id == round_id:
                opened.record = record
                if record.round.is_over:
                    self._told(desk, record.round, record.round.phase)
                    self._gone(desk, opened)
            if record.round.is_over:
                await self.clear_up(record)

    async def clear_up(self, record: RoundRecord) -> None:
        """Delete what a round that was given up needs no more."""
        await self._closing.delete_partials(record)
        await self.delete_blobs(record.blob_keys)

    async def delete_blobs(self, keys: Iterable[str]) -> None:
        """Delete what nothing points to any more."""
        await self._closing.delete_blobs(keys)

    def _gone(self, desk: Desk, opened: OpenRound) -> None:
        desk.open = None
        opened.batch.settle_all(Outcome.ROUND_GONE)

    async def _take_up(self, desk: Desk, record: RoundRecord) -> None:
        """A round that this process has not held yet: another one's, or its own before a restart."""
        layout = await self._trunk.report_layout(record.round.spec)
        # A round that an earlier release has opened has none of its own.
        scales = record.norm_scales_json or await self._scales.of_task(record.round.spec)
        # Read before anybody can find the round: a report that comes in between must not slip by.
        withdrawn = await self._withdrawn(record.round)
        before = desk.open
        is_same_buffer = before is not None and before.round.is_async and record.round.is_async
        # What waits from before a rollback may come from a version that it took back: it is let go.
        has_batch = before is not None and is_same_buffer and withdrawn <= before.withdrawn
        batch = before.batch if before is not None and has_batch else None
        desk.taken_up += 1
        name = f"{self._world.replica}.{desk.taken_up}"
        desk.open = OpenRound(record, name, layout, judge_of(record.round.spec, scales), batch)
        desk.open.withdrawn = withdrawn
        if before is not None and is_same_buffer:
            desk.open.heard = self._heard_lately(before)
        desk.last_sequence = record.round.sequence
        if before is not None and batch is None:
            before.batch.settle_all(Outcome.ROUND_GONE)

    def _heard_lately(self, before: OpenRound) -> dict[AssignmentId, datetime]:
        """Return of whom a buffer heard whose assignments may run out only while the next one is open."""
        since = self._world.clock() - 2 * timedelta(seconds=before.round.spec.round.deadline_s)
        return {id_: at for id_, at in before.heard.items() if at >= since}

    async def _withdrawn(self, current: Round) -> frozenset[ModelVersion]:
        if not current.is_async:
            return frozenset()
        return await self._world.store.populations.withdrawn(current.population)

    async def _count_training(self, desk: Desk) -> None:
        now = self._world.clock()
        since = now - timedelta(seconds=desk.spec.round.deadline_s)
        # What a clock that was wrong has dated into the future must not take places until then.
        desk.training = await self._world.store.rounds.outstanding(desk.task, since, now + CLOCKS_DIFFER)

    def _tell_late_ones(self, desk: Desk) -> None:
        """Whoever waits for a round that another process closes has come too late for it."""
        opened = desk.open
        if opened is None or opened.round.is_async or opened.unsure is not None:
            return
        if opened.round.phase is not Phase.COLLECTING:
            opened.batch.settle_all(Outcome.ROUND_GONE)

    async def _flush_at_deadline(self, desk: Desk) -> None:
        async with desk.turn:
            opened = desk.open
            if opened is None or opened.round.is_async or opened.round.phase is not Phase.COLLECTING:
                return
            if self._world.clock() >= opened.round.deadline_at:
                await self._flush_rest(desk, opened)

    async def _flush_rest(self, desk: Desk, opened: OpenRound) -> None:
        await self._flusher.flush(desk, opened, partial(is_enough, opened.round))

    async def _finish_or_open(self, desk: Desk) -> None:
        if desk.status not in {TaskStatus.ACTIVE, TaskStatus.PAUSED}:
            return
        limit = desk.spec.round.max_rounds
        opened, closed = await self._world.store.rounds.tally(desk.task)
        if limit is not None and closed >= limit:
            await self._world.store.tasks.set_status(desk.task, TaskStatus.FINISHED)
            desk.status = TaskStatus.FINISHED
            if desk.open is not None:
                self._gone(desk, desk.open)
        elif desk.status is TaskStatus.ACTIVE:
            await self._open_next(desk, opened + 1)

    async def _open_next(self, desk: Desk, sequence: int) -> None:
        record = await self._next_round(desk, sequence)
        try:
            await self._world.store.rounds.add(record)
        except AlreadyExists:
            return  # by another process; the next pass reads it
        await self._take_up(desk, record)
        self._world.observer.round_opened(desk.task, sequence)

    async def _next_round(self, desk: Desk, sequence: int) -> RoundRecord:
        spec, now = await tuned_task(self._world.store, desk.spec), self._world.clock()
        population = await self._trunk.population(spec.population)
        opening = Round(
            id=RoundId(f"{spec.name}-{sequence}"),
            task=spec.name,
            population=spec.population,
            sequence=sequence,
            base_version=population.latest_version,
            spec=spec,
            opened_at=now,
            deadline_at=now + timedelta(seconds=spec.round.deadline_s),
        )
        return RoundRecord(round=opening, norm_scales_json=await self._scales.of_task(spec))

    async def _end_if_due(self, desk: Desk, opened: OpenRound) -> None:
        if opened.round.phase is not Phase.COLLECTING:
            await self._close(desk, opened)
            return
        now = self._world.clock()
        is_met = opened.round.reports >= opened.round.spec.round.goal
        if not is_met and self._leadership.peers and now < opened.round.deadline_at + _PEERS_FLUSH:
            return
        match due(opened.round, opened.batch.sum.size, now):
            case Due.NOTHING:
                return
            case Due.REDATE:
                await self._advance(desk, opened, Redated())
            case Due.ABANDON:
                await self._end_without_version(desk, opened, _given_up(opened.round))
            case Due.CARRY:
                await self._flush_rest(desk, opened)
                await self._carry(desk, opened)
            case Due.CLOSE:
                await self._flush_rest(desk, opened)
                # The flush may have failed: ask again.
                if opened.round.reports >= opened.round.spec.round.minimum_reports:
                    await self._advance(desk, opened, CloseRequested())
                    await self._expiry.end(desk, opened)
                    if not opened.round.is_async:
                        opened.batch.settle_all(Outcome.ROUND_GONE)
                    await self._close(desk, opened)

    async def _carry(self, desk: Desk, opened: OpenRound) -> None:
        """The next round begins with what came, unless the model has moved: then nobody can use it."""
        current = opened.round
        following = await self._next_round(desk, current.sequence + 1)
        if following.round.base_version != current.base_version or current.reports == 0:
            await self._end_without_version(desk, opened, _given_up(current))
            return
        carried = await self._world.store.rounds.carry(opened.id, Carried(_missed(current)), following)
        await self._expiry.end(desk, opened)
        await self._world.store.rounds.clear_up(opened.id)
        self._told(desk, current, Phase.CARRIED)
        await self._take_up(desk, carried)
        self._world.observer.round_opened(desk.task, carried.round.sequence)

    async def _close(self, desk: Desk, opened: OpenRound) -> None:
        opened.record = await self._closing.finish(opened.record)
        if opened.round.is_over:
            self._over(desk, opened)
        _tell_of_holding(opened)

    async def _end_without_version(self, desk: Desk, opened: OpenRound, event: Abandoned | Cancelled) -> None:
        await self._advance(desk, opened, event)
        if isinstance(event, Abandoned):
            await self._expiry.end(desk, opened)
        opened.batch.settle_all(Outcome.ROUND_GONE)
        await self.clear_up(opened.record)
        self._over(desk, opened)

    async def _advance(self, desk: Desk, opened: OpenRound, event: Event) -> None:
        """The row first, then what memory says: an error in between must leave memory as it was."""
        async with desk.lock:
            opened.record = await self._world.store.rounds.advance(opened.id, event, self._world.clock(), {})

    def _over(self, desk: Desk, opened: OpenRound) -> None:
        if opened.round.phase is Phase.DISCARDED:
            self._gone(desk, opened)
        elif not opened.round.is_async:
            desk.open = None  # a buffer stays until the next one takes over what waits
        self._told(desk, opened.round, opened.round.phase)

    def _told(self, desk: Desk, ended: Round, phase: Phase) -> None:
        ended_at = ended.closed_at or self._world.clock()
        duration_s = (ended_at - ended.opened_at).total_seconds()
        self._world.observer.round_ended(desk.task, ended.sequence, phase, ended.reports, duration_s)


def _tell_of_holding(opened: OpenRound) -> None:
    """Reports that wait for the buffer after one that is held are told that there is none."""
    if opened.is_held and len(opened.batch):
        opened.let_go_of_what_waits()


def trouble(error: Exception) -> str:
    """One sentence for an operator. Only errors of our own are quoted: others might quote numbers."""
    return (
        str(error) if isinstance(error, _OUR_OWN) else f"{type(error).__name__}; the log has the traceback."
    )


def _given_up(current: Round) -> Abandoned:
    return Abandoned(_missed(current), current.reports)


def _missed(current: Round) -> str:
    least = current.spec.round.minimum_reports
    return f"{current.reports} reports by the deadline; the minimum was {least}."
