"""The life of a task's rounds: open the next, end what is due, and pick up after a crash."""

from dataclasses import replace
from datetime import timedelta

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator.closing import Closing
from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.flushing import Flusher
from keyflock_server.coordinator.micro_batch import Outcome
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.decisions import Due, due
from keyflock_server.rounds.round import (
    Abandoned,
    Cancelled,
    CloseRequested,
    Event,
    Phase,
    Round,
    advance,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import RoundRecord, TaskRecord


class Rounds:
    """Opens, ends and resumes rounds. Every public method takes ``desk.turn``."""

    def __init__(self, world: Surroundings, trunk: Trunk, flusher: Flusher) -> None:
        self._world = world
        self._trunk = trunk
        self._flusher = flusher
        self._closing = Closing(world, trunk)

    async def drive(self, desk: Desk) -> None:
        """Whatever is due on this desk now: flush, close, abandon, open."""
        await self._flusher.flush_if_due(desk)
        if desk.status is TaskStatus.CANCELLED:
            await self.cancel(desk)
        async with desk.turn:
            if desk.open is not None:
                await self._end_if_due(desk, desk.open)
            if desk.open is None:
                await self._finish_or_open(desk)

    async def cancel(self, desk: Desk) -> None:
        """End the task and its open round, unless that is closing already: then it closes."""
        async with desk.turn:
            opened = desk.open
            if opened is not None and opened.round.phase is Phase.COLLECTING:
                await self._end_without_version(desk, opened, Cancelled("The task was cancelled."))
            elif opened is not None:
                await self._close(desk, opened)

    async def resume(self, task: TaskRecord) -> Desk:
        """The task's desk as the rows say: what was committed before a crash is there again."""
        records = await self._world.store.rounds.of_task(task.name)
        # One that is published but not closed is counted when it closes.
        published = sum(record.round.phase is Phase.CLOSED for record in records)
        desk = Desk(task.spec, task.status, len(records), published)
        unfinished = [record for record in records if not record.round.is_over]
        if unfinished:
            desk.open = await self._reopened(desk, unfinished[-1])
        return desk

    async def _reopened(self, desk: Desk, record: RoundRecord) -> OpenRound:
        layout = await self._trunk.report_layout(record.round.spec)
        committed = PartialAggregate(layout.size)
        # Once it closes, the round needs no sum in memory, and its partial may be deleted already.
        if record.partial_key is not None and record.round.phase is Phase.COLLECTING:
            data = await self._world.blobs.get(record.partial_key)
            committed = await self._world.workbench.run(PartialAggregate.from_bytes, data, layout.size)
        members = await self._world.store.rounds.assignments(record.round.id)
        return OpenRound(record, layout, committed, desk.judge, members)

    async def _finish_or_open(self, desk: Desk) -> None:
        limit = desk.spec.round.max_rounds
        is_done = limit is not None and desk.rounds_published >= limit
        if is_done and desk.status in {TaskStatus.ACTIVE, TaskStatus.PAUSED}:
            await self._world.store.tasks.set_status(desk.task, TaskStatus.FINISHED)
            desk.status = TaskStatus.FINISHED
        if desk.status is TaskStatus.ACTIVE:
            await self._open_next(desk)

    async def _open_next(self, desk: Desk) -> None:
        world, spec = self._world, desk.spec
        population = await self._trunk.population(spec.population)
        layout = await self._trunk.report_layout(spec)
        sequence, now = desk.rounds_opened + 1, world.clock()
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
        record = RoundRecord(round=opening)
        await world.store.rounds.add(record)
        desk.rounds_opened = sequence
        desk.open = OpenRound(record, layout, PartialAggregate(layout.size), desk.judge)
        world.observer.round_opened(desk.task, sequence)

    async def _end_if_due(self, desk: Desk, opened: OpenRound) -> None:
        if opened.round.phase is not Phase.COLLECTING:
            await self._close(desk, opened)
            return
        match due(opened.round, opened.batch.sum.count, self._world.clock()):
            case Due.NOTHING:
                return
            case Due.ABANDON:
                detail = f"{opened.round.counted} reports by the deadline; the minimum was "
                detail += f"{opened.round.spec.round.minimum_reports}."
                await self._end_without_version(desk, opened, Abandoned(detail))
            case Due.CLOSE:
                least = opened.round.spec.round.min_flush_clients
                await self._flusher.flush(desk, opened, lambda count: count >= least)
                # The flush may have failed: ask again.
                if opened.round.counted >= opened.round.spec.round.minimum_reports:
                    await self._advance(desk, opened, CloseRequested())
                    opened.batch.settle_all(Outcome.ROUND_GONE)
                    await self._close(desk, opened)

    async def _close(self, desk: Desk, opened: OpenRound) -> None:
        opened.record = await self._closing.finish(opened.record)
        desk.rounds_published += 1
        await self._over(desk, opened)

    async def _end_without_version(self, desk: Desk, opened: OpenRound, event: Abandoned | Cancelled) -> None:
        keys = opened.record.blob_keys
        await self._advance(desk, opened, event, partial_key=None)
        opened.batch.settle_all(Outcome.ROUND_GONE)
        await self._closing.delete_blobs(keys)
        await self._world.store.rounds.purge_forgotten(opened.id)
        await self._over(desk, opened)

    async def _advance(self, desk: Desk, opened: OpenRound, event: Event, **changes: str | None) -> None:
        """The row first, then what memory says: an error in between must leave memory as it was."""
        async with desk.lock:
            round_after = advance(opened.round, event, self._world.clock())
            record = replace(opened.record, round=round_after, **changes)
            await self._world.store.rounds.save(record)
            opened.record = record

    async def _over(self, desk: Desk, opened: OpenRound) -> None:
        desk.open = None
        current = opened.round
        ended_at = current.closed_at or self._world.clock()
        duration_s = (ended_at - current.opened_at).total_seconds()
        self._world.observer.round_ended(
            desk.task, current.sequence, current.phase, current.counted, duration_s
        )
