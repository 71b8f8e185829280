"""Rounds and assignments in SQL: the transactions that make every acknowledged report a counted one."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import (
    LIVE_PHASES,
    Carried,
    Counted,
    Expired,
    Failed,
    Phase,
    Published,
    RoundEvent,
    SlotTaken,
    Summarised,
)
from keyflock_server.storage.errors import (
    AlreadyExists,
    AssignmentsNotOpen,
    PartialSuperseded,
    Superseded,
    UnreadableRow,
)
from keyflock_server.storage.interfaces.rounds import RoundChanges
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    PartialRecord,
    RoundRecord,
)
from keyflock_server.storage.slots import check_slot
from keyflock_server.storage.sql.assignments import assignment_record
from keyflock_server.storage.sql.devices import FACTS, device_facts
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.expiry import due_assignments, mark_expired
from keyflock_server.storage.sql.population_rows import require_population
from keyflock_server.storage.sql.round_rows import (
    advance_round,
    apply_event,
    lock_round,
    round_columns,
    round_record,
)
from keyflock_server.storage.sql.rows import readable
from keyflock_server.storage.tables import (
    assignments,
    devices,
    partials,
    populations,
    rounds,
    tasks,
    versions,
)


class SqlRoundRepository:
    """Implements ``RoundRepository`` in SQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, record: RoundRecord) -> None:
        """Add a round."""
        mine = (rounds.c.task == record.round.task, rounds.c.phase.in_(LIVE_PHASES))
        try:
            async with self._engine.begin() as connection:
                await require_population(connection, record.round.population)
                # A caller that knows this sequence number has seen the round before it: no lock is needed.
                if (await connection.execute(select(rounds.c.id).where(*mine).limit(1))).first():
                    raise AlreadyExists(record.round.id)
                await connection.execute(insert(rounds).values(round_columns(record)))
        except IntegrityError:
            raise AlreadyExists(record.round.id) from None

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """Return the round of this id, or None."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one_or_none()
        return None if row is None else round_record(row)

    async def list_by_task(self, task: TaskName, last: int | None = None) -> list[RoundRecord]:
        """Return a task's rounds, ordered by sequence; only the newest ``last`` rounds, if given."""
        query = select(rounds).where(rounds.c.task == task).order_by(rounds.c.sequence.desc()).limit(last)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [round_record(row) for row in reversed(rows)]

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        """Count a task's rounds by phase."""
        query = select(rounds.c.phase, func.count()).where(rounds.c.task == task).group_by(rounds.c.phase)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return {Phase(phase): count for phase, count in rows}

    async def count(self, task: TaskName) -> tuple[int, int]:
        """Count a task's rounds: all that were opened, and those that are closed with a result."""
        # Two queries, because each has an index.
        newest = select(func.max(rounds.c.sequence)).where(rounds.c.task == task).scalar_subquery()
        finished = select(func.count()).where(rounds.c.phase == Phase.CLOSED, rounds.c.task == task)
        query = select(func.coalesce(newest, 0), finished.select_from(rounds).scalar_subquery())
        async with self._reader.connect() as connection:
            opened, closed = (await connection.execute(query)).one()
        return opened, closed

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:
        """Return the rounds that are not over, oldest first."""
        # This runs at every pass. It selects by live phases, which are few and have an index.
        query = select(rounds).where(rounds.c.phase.in_(LIVE_PHASES)).order_by(rounds.c.opened_at)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return list(readable(rows, round_record, lambda row: TaskName(row.task), unreadable))

    async def advance(
        self, round_id: RoundId, event: RoundEvent, at: datetime, changes: RoundChanges
    ) -> RoundRecord:
        """Apply an event to a round, change its other columns, and return it."""
        async with self._engine.begin() as connection:
            return await advance_round(connection, round_id, event, at, changes)

    async def assign(self, assignment: AssignmentRecord) -> RoundRecord:
        """Store an assignment, which takes a slot of its round, and return the round."""
        try:
            async with self._engine.begin() as connection:
                after = await advance_round(
                    connection, assignment.round_id, SlotTaken(), assignment.assigned_at
                )
                # The lock keeps the device from being forgotten before the commit, so that none such holds a
                # slot.
                its_device = select(*FACTS).where(devices.c.id == assignment.device)
                found = await connection.execute(its_device.with_for_update(read=True, key_share=True))
                row = found.one_or_none()
                check_slot(assignment, after.round, None if row is None else device_facts(row))
                await connection.execute(insert(assignments).values(asdict(assignment)))
                return after
        except IntegrityError:
            raise AlreadyExists(assignment.id) from None

    async def fail(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        """Mark an assignment as failed, free its slot while the round collects, and return the round."""
        change = (
            update(assignments)
            .where(
                assignments.c.round_id == assignment.round_id,
                assignments.c.device == assignment.device,
                assignments.c.state == AssignmentState.ASSIGNED,
            )
            .values(state=AssignmentState.FAILED, session_shape=session_shape)
        )
        async with self._engine.begin() as connection:
            # Locks the round first, as a flush does: transactions with one lock order cannot deadlock.
            before = await lock_round(connection, assignment.round_id)
            if (await connection.execute(change)).rowcount != 1:
                raise Superseded(assignment.id)
            if before.round.phase is not Phase.COLLECTING:
                return before
            return await apply_event(connection, before, Failed(), at)

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        excluded: Collection[AssignmentId] = (),
        rejected: Collection[AssignmentId] = (),
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        """Mark the assignments that have expired by then, and count a silence of their devices."""
        async with self._reader.connect() as connection:
            known = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one()
            if not await due_assignments(connection, round_record(known).round, before, excluded):
                return None
        async with self._engine.begin() as connection:
            current = await lock_round(connection, round_id)
            due = await due_assignments(connection, current.round, before, excluded, lock=True)
            if not due:
                return None
            own = sum(row.round_id == round_id for row in due)
            if own and current.round.phase is Phase.COLLECTING:
                current = await apply_event(connection, current, Expired(own), before)
            await mark_expired(connection, current.round, due, rejected, before)
            return current, tuple(sorted(row.id for row in due))

    async def commit_flush(
        self,
        partial: PartialRecord,
        reports: Sequence[CountedReport],
        at: datetime,
        replaces: str | None = None,
    ) -> RoundRecord:
        """Store the process's new partial aggregate and mark the reports that are new in it."""
        counted = Counted(len(reports), sum(report.weight for report in reports))
        async with self._engine.begin() as connection:
            # The lock lets one process at a time flush or close the round.
            before = await lock_round(connection, partial.round_id)
            await _check_open(connection, reports)
            after = await apply_event(connection, before, counted, at)
            await connection.execute(_count(partial.round_id), [_counted(report, at) for report in reports])
            its_devices = devices.c.id.in_([report.device for report in reports])
            await connection.execute(
                update(devices).where(its_devices).values(last_contributed_at=at, silences=0, changed_at=at)
            )
            await _replace(connection, replaces, partial)
            return after

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        """Return the round's partial aggregates, ordered by replica."""
        query = select(partials).where(partials.c.round_id == round_id).order_by(partials.c.replica)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [PartialRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def carry(self, before: RoundId, event: Carried, after: RoundRecord) -> RoundRecord:
        """End a round, and open the next one with its partial aggregates."""
        following = after.round
        newest = (
            select(populations.c.latest_version)
            .where(populations.c.name == following.population)
            .with_for_update()
        )
        try:
            async with self._engine.begin() as connection:
                ended = await advance_round(connection, before, event, following.opened_at)
                if (await connection.execute(newest)).scalar_one() != ended.round.base_version:
                    raise Superseded(before)
                started = replace(
                    after,
                    round=replace(following, carried=ended.round.reports, weight=ended.round.weight),
                )
                await connection.execute(insert(rounds).values(round_columns(started)))
                # A partial that was carried before keeps the name of the round that it was summed in.
                is_carried = partials.c.replica.contains("/")
                origin = case((is_carried, partials.c.replica), else_=f"{before}/" + partials.c.replica)
                moved = (
                    update(partials)
                    .where(partials.c.round_id == before)
                    .values(round_id=following.id, replica=origin)
                )
                await connection.execute(moved)
                return started
        except IntegrityError:
            raise Superseded(before) from None

    async def publish(
        self,
        round_id: RoundId,
        version: VersionRecord,
        optimizer_state_key: str,
        at: datetime,
        norm_scales_json: bytes | None = None,
    ) -> RoundRecord:
        """Store a round's new version as the population's newest, with the task's optimiser state."""
        newest = (
            update(populations)
            .where(populations.c.name == version.population, populations.c.latest_version == version.parent)
            .values(latest_version=version.version)
        )
        async with self._engine.begin() as connection:
            after = await advance_round(connection, round_id, Published(version.version), at)
            if (await connection.execute(newest)).rowcount != 1:
                raise Superseded(round_id)
            await connection.execute(insert(versions).values(asdict(version)))
            changed: dict[str, Any] = {
                "average_key": None if after.staged is None else after.staged.average_key
            }
            if after.round.is_accepted and version.anchor_loss is not None:
                changed["anchor_loss_chosen"] = version.anchor_loss
            population = update(populations).where(populations.c.name == version.population)
            await connection.execute(population.values(changed))
            state = update(tasks).where(tasks.c.name == after.round.task)
            scales = {} if norm_scales_json is None else {"norm_scales_json": norm_scales_json}
            await connection.execute(state.values(optimizer_state_key=optimizer_state_key, **scales))
            return after

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        """End a ``personalize`` round, and store its population's new personalisation."""
        async with self._engine.begin() as connection:
            ended = await advance_round(connection, round_id, event, at)
            if after is not None:
                change = update(populations).where(
                    populations.c.name == ended.round.population,
                    populations.c.personalisation_json.is_not_distinct_from(before),
                )
                if (await connection.execute(change.values(personalisation_json=after))).rowcount != 1:
                    raise Superseded(round_id)
            return ended

    async def clear_up(self, round_id: RoundId) -> None:
        """Delete the rows that a finished round does not need any more."""
        forgotten = delete(assignments).where(
            assignments.c.round_id == round_id, assignments.c.device.not_in(select(devices.c.id))
        )
        async with self._engine.begin() as connection:
            await connection.execute(forgotten)
            await connection.execute(delete(partials).where(partials.c.round_id == round_id))


async def _replace(connection: AsyncConnection, before: str | None, partial: PartialRecord) -> None:
    """Replace a partial aggregate of a round that the caller has locked."""
    mine = (partials.c.round_id == partial.round_id) & (partials.c.replica == partial.replica)
    known = (await connection.execute(select(partials.c.key).where(mine))).scalar_one_or_none()
    if known != before:
        raise PartialSuperseded(partial.round_id)
    row = asdict(partial)
    change = insert(partials).values(row) if before is None else update(partials).where(mine).values(row)
    await connection.execute(change)


async def _check_open(connection: AsyncConnection, reports: Sequence[CountedReport]) -> None:
    reported = {report.id for report in reports}
    query = (
        select(assignments)
        .where(
            assignments.c.round_id.in_({report.round_id for report in reports}),
            assignments.c.device.in_({report.device for report in reports}),
        )
        .order_by(assignments.c.round_id, assignments.c.device)
        .with_for_update()
    )
    rows = [assignment_record(row) for row in await connection.execute(query)]
    theirs = select(devices.c.id).where(devices.c.id.in_({report.device for report in reports}))
    enrolled = set(await connection.scalars(theirs.order_by(devices.c.id).with_for_update()))
    if not_open := AssignmentsNotOpen.find(reported, [row for row in rows if row.id in reported], enrolled):
        raise not_open


def _count(counted_in: RoundId) -> Any:  # noqa: ANN401 - SQLAlchemy's update of many
    return (
        update(assignments)
        .where(
            assignments.c.round_id == bindparam("of_round"), assignments.c.device == bindparam("of_device")
        )
        .values(
            state=AssignmentState.COUNTED,
            report_digest=bindparam("digest"),
            weight=bindparam("its_weight"),
            session_shape=bindparam("shape"),
            counted_in=counted_in,
            counted_at=bindparam("received_at"),
        )
    )


def _counted(report: CountedReport, at: datetime) -> dict[str, object]:
    return {
        "of_round": report.round_id,
        "of_device": report.device,
        "digest": report.report_digest,
        "its_weight": report.weight,
        "shape": report.session_shape,
        "received_at": report.received_at or at,
    }
