"""Rounds and assignments in SQL: the transactions that make acked mean counted."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.protocol.identifiers import AssignmentId, PopulationName, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import (
    LIVE_PHASES,
    Assigned,
    Carried,
    Counted,
    Discarded,
    Event,
    Expired,
    Failed,
    IllegalEvent,
    Phase,
    Published,
    Round,
    Summarised,
    advance,
)
from keyflock_server.rounds.task import stored_task
from keyflock_server.storage.door import (
    AlreadyExists,
    Changes,
    NotOpen,
    PartialMoved,
    Superseded,
    UnreadableRow,
)
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    PartialRecord,
    RoundRecord,
)
from keyflock_server.storage.sql.assignment_reads import AssignmentReads, assignment_record
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.expiry import due_assignments, mark_expired
from keyflock_server.storage.sql.rows import damage_of, readable
from keyflock_server.storage.sql.verdicts import add_verdicts, verdicts_of
from keyflock_server.storage.tables import (
    assignments,
    devices,
    partials,
    populations,
    rounds,
    tasks,
    versions,
)

_UNPUBLISHED = LIVE_PHASES - {Phase.PUBLISHED}
_OWN_COLUMNS = tuple(field.name for field in fields(RoundRecord) if field.name != "round")


class SqlRounds(AssignmentReads):
    """``door.RoundTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(reader_of(engine))
        self._engine = engine

    async def add(self, record: RoundRecord) -> None:
        """A new round."""
        mine = (rounds.c.task == record.round.task, rounds.c.phase.in_(LIVE_PHASES))
        try:
            async with self._engine.begin() as connection:
                # Whoever knows this sequence number has seen the round before it: no lock is needed.
                if (await connection.execute(select(rounds.c.id).where(*mine).limit(1))).first():
                    raise AlreadyExists(record.round.id)
                await connection.execute(insert(rounds).values(_columns(record)))
        except IntegrityError:
            raise AlreadyExists(record.round.id) from None

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """One round."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one_or_none()
        return None if row is None else _record(row)

    async def of_task(self, task: TaskName, last: int | None = None) -> list[RoundRecord]:
        """A task's rounds, by sequence; only the newest ``last`` of them, if given."""
        query = select(rounds).where(rounds.c.task == task).order_by(rounds.c.sequence.desc()).limit(last)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [_record(row) for row in reversed(rows)]

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        """How many of a task's rounds are in each phase."""
        query = select(rounds.c.phase, func.count()).where(rounds.c.task == task).group_by(rounds.c.phase)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return {Phase(phase): count for phase, count in rows}

    async def tally(self, task: TaskName) -> tuple[int, int]:
        """A task's rounds so far, and how many of them came to a result and are closed."""
        # Apart, each has an index that answers it.
        newest = select(func.max(rounds.c.sequence)).where(rounds.c.task == task).scalar_subquery()
        finished = select(func.count()).where(rounds.c.phase == Phase.CLOSED, rounds.c.task == task)
        query = select(func.coalesce(newest, 0), finished.select_from(rounds).scalar_subquery())
        async with self._reader.connect() as connection:
            opened, closed = (await connection.execute(query)).one()
        return opened, closed

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:
        """Rounds that are not in a final phase, oldest first."""
        # Asked at every pass: by the phases that there are few of, for which there is an index.
        query = select(rounds).where(rounds.c.phase.in_(LIVE_PHASES)).order_by(rounds.c.opened_at)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return list(readable(rows, _record, lambda row: TaskName(row.task), unreadable))

    async def advance(self, round_id: RoundId, event: Event, at: datetime, changes: Changes) -> RoundRecord:
        """The round after the event, its other columns changed too."""
        async with self._engine.begin() as connection:
            return await _advance(connection, round_id, event, at, changes)

    async def assign(self, assignment: AssignmentRecord) -> RoundRecord:
        """The round with one slot more taken, and by whom."""
        try:
            async with self._engine.begin() as connection:
                after = await _advance(connection, assignment.round_id, Assigned(), assignment.assigned_at)
                # Kept from being forgotten until this is committed, so that no forgotten device holds a slot.
                its_device = select(devices.c.id).where(devices.c.id == assignment.device)
                kept = await connection.execute(its_device.with_for_update(read=True, key_share=True))
                if kept.one_or_none() is None:
                    raise Superseded(assignment.id)
                await connection.execute(insert(assignments).values(asdict(assignment)))
                return after
        except IntegrityError:
            raise AlreadyExists(assignment.id) from None

    async def fail(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        """The assignment given back, and the round with it while it collects."""
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
            # The round first, as a flush does: transactions that lock in one order cannot block each other.
            before = await _locked(connection, assignment.round_id)
            if (await connection.execute(change)).rowcount != 1:
                raise Superseded(assignment.id)
            if before.round.phase is not Phase.COLLECTING:
                return before
            return await _moved(connection, before, Failed(), at)

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        spared: Collection[AssignmentId] = (),
        heard: Collection[AssignmentId] = (),
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        """Mark the assignments that ran out of time before then, and count their devices' silences."""
        async with self._reader.connect() as connection:
            known = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one()
            if not await due_assignments(connection, _record(known).round, before, spared):
                return None
        async with self._engine.begin() as connection:
            current = await _locked(connection, round_id)
            due = await due_assignments(connection, current.round, before, spared, lock=True)
            if not due:
                return None
            own = sum(row.round_id == round_id for row in due)
            if own and current.round.phase is Phase.COLLECTING:
                current = await _moved(connection, current, Expired(own), before)
            await mark_expired(connection, current.round, due, heard)
            return current, tuple(sorted(row.id for row in due))

    async def commit_flush(
        self,
        partial: PartialRecord,
        reports: Sequence[CountedReport],
        at: datetime,
        replaces: str | None = None,
    ) -> RoundRecord:
        """The process's new partial aggregate, and the reports that are new in it."""
        counted = Counted(len(reports), sum(report.weight for report in reports))
        async with self._engine.begin() as connection:
            # Of several processes that flush or close the round, one goes on at a time.
            before = await _locked(connection, partial.round_id)
            await _check_open(connection, reports)
            after = await _moved(connection, before, counted, at)
            await connection.execute(_count(partial.round_id), [_counted(report, at) for report in reports])
            its_devices = devices.c.id.in_([report.device for report in reports])
            await connection.execute(
                update(devices).where(its_devices).values(last_contributed_at=at, silences=0)
            )
            await _replace(connection, replaces, partial)
            return after

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        """The round's partial aggregates, by replica."""
        query = select(partials).where(partials.c.round_id == round_id).order_by(partials.c.replica)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [PartialRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def carry(self, before: RoundId, event: Carried, after: RoundRecord) -> RoundRecord:
        """The round ended, and the next one opened with its partial aggregates."""
        following = after.round
        newest = (
            select(populations.c.latest_version)
            .where(populations.c.name == following.population)
            .with_for_update()
        )
        try:
            async with self._engine.begin() as connection:
                ended = await _advance(connection, before, event, following.opened_at)
                if (await connection.execute(newest)).scalar_one() != ended.round.base_version:
                    raise Superseded(before)
                started = replace(
                    after,
                    round=replace(following, carried=ended.round.reports, weight=ended.round.weight),
                )
                await connection.execute(insert(rounds).values(_columns(started)))
                # What was carried before keeps the name of the round that it was summed in.
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
        """The round's new version, as the population's newest."""
        newest = (
            update(populations)
            .where(populations.c.name == version.population, populations.c.latest_version == version.parent)
            .values(latest_version=version.version)
        )
        async with self._engine.begin() as connection:
            after = await _advance(connection, round_id, Published(version.version), at)
            if (await connection.execute(newest)).rowcount != 1:
                raise Superseded(round_id)
            await connection.execute(insert(versions).values(asdict(version)))
            changed: dict[str, Any] = {"average_key": after.average_key}
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
        """The round's end, and what its population is personalised with from now on."""
        async with self._engine.begin() as connection:
            ended = await _advance(connection, round_id, event, at)
            if after is not None:
                change = update(populations).where(
                    populations.c.name == ended.round.population,
                    populations.c.personalisation_json.is_not_distinct_from(before),
                )
                if (await connection.execute(change.values(personalisation_json=after))).rowcount != 1:
                    raise Superseded(round_id)
            return ended

    async def clear_up(self, round_id: RoundId) -> None:
        """Delete what a round that is over needs no more."""
        forgotten = delete(assignments).where(
            assignments.c.round_id == round_id, assignments.c.device.not_in(select(devices.c.id))
        )
        async with self._engine.begin() as connection:
            await connection.execute(forgotten)
            await connection.execute(delete(partials).where(partials.c.round_id == round_id))

    async def add_verdicts(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """So many more of each verdict, whoever else is counting."""
        async with self._engine.begin() as connection:
            await add_verdicts(connection, counts)

    async def verdicts(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """What was said of the reports to the task's rounds, or one of them."""
        async with self._reader.connect() as connection:
            return await verdicts_of(connection, task, round_id)


async def discard_unpublished(
    connection: AsyncConnection,
    population: PopulationName,
    event_of: Callable[[Round], Discarded],
    at: datetime,
) -> tuple[RoundRecord, ...]:
    """Discard each round of a population that has not published, and return them as they are now."""
    mine = select(rounds).where(rounds.c.population == population, rounds.c.phase.in_(_UNPUBLISHED))
    rows = (await connection.execute(mine.order_by(rounds.c.id).with_for_update())).all()
    records = [_record(row) for row in rows]
    return tuple([await _moved(connection, one, event_of(one.round), at) for one in records])


async def _locked(connection: AsyncConnection, round_id: RoundId) -> RoundRecord:
    """The row, which no other transaction changes until this one ends."""
    row = (
        await connection.execute(select(rounds).where(rounds.c.id == round_id).with_for_update())
    ).one_or_none()
    if row is None:
        raise Superseded(round_id)
    return _record(row)


async def _advance(
    connection: AsyncConnection,
    round_id: RoundId,
    event: Event,
    at: datetime,
    changes: Changes | None = None,
) -> RoundRecord:
    return await _moved(connection, await _locked(connection, round_id), event, at, changes)


async def _moved(
    connection: AsyncConnection,
    before: RoundRecord,
    event: Event,
    at: datetime,
    changes: Changes | None = None,
) -> RoundRecord:
    try:
        moved = advance(before.round, event, at)
    except IllegalEvent as error:
        raise Superseded(f"{before.round.id}: {error}") from None
    after = replace(before, round=moved, **(changes or {}))
    was, becomes = _columns(before), _columns(after)
    changed = {name: value for name, value in becomes.items() if value != was[name]}
    if changed:
        await connection.execute(update(rounds).where(rounds.c.id == before.round.id).values(changed))
    return after


async def _replace(connection: AsyncConnection, before: str | None, partial: PartialRecord) -> None:
    """The caller has locked the round, so nobody else writes its partials."""
    mine = (partials.c.round_id == partial.round_id) & (partials.c.replica == partial.replica)
    known = (await connection.execute(select(partials.c.key).where(mine))).scalar_one_or_none()
    if known != before:
        raise PartialMoved(partial.round_id)
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
    if not_open := NotOpen.among(reported, [row for row in rows if row.id in reported], enrolled):
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


def _columns(record: RoundRecord) -> dict[str, object]:
    columns = {
        field.name: getattr(record.round, field.name) for field in fields(Round) if field.name != "spec"
    }
    own = {name: getattr(record, name) for name in _OWN_COLUMNS}
    return columns | own | {"spec_json": record.round.spec.to_json()}


def _record(row: Row[Any]) -> RoundRecord:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    own = {name: columns.pop(name) for name in _OWN_COLUMNS}
    with damage_of(f"round {row.id}"):
        spec, phase = stored_task(columns.pop("spec_json")), Phase(columns.pop("phase"))
    return RoundRecord(round=Round(spec=spec, phase=phase, **columns), **own)
