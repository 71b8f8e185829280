"""Rounds and assignments in SQL: the transactions that make every acknowledged report a counted one."""

from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.compared_pairs import is_same_comparison
from keyflock_server.rounds.round import (
    LIVE_PHASES,
    Carried,
    Expired,
    Phase,
    Published,
    RoundEvent,
    Summarised,
)
from keyflock_server.storage.audit_documents import round_document
from keyflock_server.storage.errors import AlreadyExists, Superseded, UnreadableRow
from keyflock_server.storage.interfaces.rounds import RoundChanges
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import PartialRecord, RoundRecord
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.expiry import due_assignments, mark_expired
from keyflock_server.storage.sql.lock_order import lock_rows
from keyflock_server.storage.sql.population_rows import lock_population, require_population
from keyflock_server.storage.sql.round_rows import (
    advance_round,
    apply_event,
    lock_round,
    round_columns,
    round_record,
)
from keyflock_server.storage.sql.rows import readable
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import (
    assignments,
    devices,
    evaluations,
    partials,
    populations,
    rounds,
    tasks,
    versions,
)


class SqlRoundRepository:
    """Implements ``RoundRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, record: RoundRecord) -> None:
        """Add a round."""
        mine = (rounds.c.task == record.round.task, rounds.c.phase.in_(LIVE_PHASES))
        population = record.round.population
        alike = select(rounds).where(
            rounds.c.population == population,
            rounds.c.base_version == record.round.base_version,
            rounds.c.phase.in_(LIVE_PHASES),
        )

        def transaction(connection: Connection) -> None:
            if record.round.spec.kind is TaskKind.EVALUATE:
                # Locked against another such transaction: either would find no round of the other.
                lock_population(connection, population)
                rows = connection.execute(alike)
                others = readable(rows, round_record, lambda row: TaskName(row.task), [])
                if any(is_same_comparison(record.round, other.round) for other in others):
                    raise AlreadyExists(record.round.id)
            else:
                require_population(connection, population)
            # A caller that knows this sequence number has seen the round before it: no lock is needed.
            if connection.execute(select(rounds.c.id).where(*mine).limit(1)).first():
                raise AlreadyExists(record.round.id)
            connection.execute(insert(rounds).values(round_columns(record)))

        try:
            await self._transactions.run(transaction)
        except IntegrityError:
            raise AlreadyExists(record.round.id) from None

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """Return the round of this id, or None."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one_or_none()
        return None if row is None else round_record(row)

    async def list_by_task(
        self, task: TaskName, last: int | None = None, unreadable: list[UnreadableRow] | None = None
    ) -> list[RoundRecord]:
        """Return a task's rounds, ordered by sequence; only the newest ``last`` rounds, if given."""
        query = select(rounds).where(rounds.c.task == task).order_by(rounds.c.sequence.desc()).limit(last)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return list(readable(reversed(rows), round_record, lambda row: TaskName(row.task), unreadable))

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
        self,
        round_id: RoundId,
        event: RoundEvent,
        at: datetime,
        changes: RoundChanges,
        *,
        audit: AuditContext | None = None,
    ) -> RoundRecord:
        """Apply an event to a round, change its other columns, and return it."""

        def transaction(connection: Connection) -> RoundRecord:
            with audited(connection, audit, SubjectKind.ROUND, round_id, _document):
                return advance_round(connection, round_id, event, at, changes)

        return await self._transactions.run(transaction)

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        excluded: Collection[AssignmentId] = (),
        rejected: Collection[AssignmentId] = (),
        now: datetime | None = None,
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        """Mark the assignments that have expired by then, and count a silence of their devices."""
        async with self._reader.connect() as connection:
            known = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one()
            current = round_record(known).round
            if not await connection.run_sync(due_assignments, current, before, excluded):
                return None

        def transaction(connection: Connection) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
            current = lock_round(connection, round_id)
            due = due_assignments(connection, current.round, before, excluded, lock=True)
            if not due:
                return None
            own = sum(row.round_id == round_id for row in due)
            if own and current.round.phase is Phase.COLLECTING:
                current = apply_event(connection, current, Expired(own), before)
            mark_expired(connection, current.round, due, rejected, now or before)
            return current, tuple(sorted(row.id for row in due))

        return await self._transactions.run(transaction)

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        """Return the round's partial aggregates, ordered by replica."""
        query = select(partials).where(partials.c.round_id == round_id).order_by(partials.c.replica)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [PartialRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def carry(
        self, before: RoundId, event: Carried, after: RoundRecord, *, audit: AuditContext | None = None
    ) -> RoundRecord:
        """End a round, and open the next one with its partial aggregates."""
        following = after.round
        newest = (
            select(populations.c.latest_version)
            .where(populations.c.name == following.population)
            .with_for_update()
        )

        def transaction(connection: Connection) -> RoundRecord:
            with audited(connection, audit, SubjectKind.ROUND, before, _document):
                ended = advance_round(connection, before, event, following.opened_at)
                if connection.execute(newest).scalar_one() != ended.round.base_version:
                    raise Superseded(before)
                started = replace(
                    after,
                    round=replace(following, carried=ended.round.reports, weight=ended.round.weight),
                )
                connection.execute(insert(rounds).values(round_columns(started)))
                # A partial that was carried before keeps the name of the round that it was summed in.
                is_carried = partials.c.replica.contains("/")
                origin = case((is_carried, partials.c.replica), else_=f"{before}/" + partials.c.replica)
                moved = (
                    update(partials)
                    .where(partials.c.round_id == before)
                    .values(round_id=following.id, replica=origin)
                )
                connection.execute(moved)
                return started

        try:
            return await self._transactions.run(transaction)
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

        def transaction(connection: Connection) -> RoundRecord:
            after = advance_round(connection, round_id, Published(version.version), at)
            if connection.execute(newest).rowcount != 1:
                raise Superseded(round_id)
            connection.execute(insert(versions).values(asdict(version)))
            changed: dict[str, Any] = {
                "average_key": None if after.staged is None else after.staged.average_key
            }
            if after.round.is_accepted and version.anchor_loss is not None:
                changed["anchor_loss_chosen"] = version.anchor_loss
            population = update(populations).where(populations.c.name == version.population)
            connection.execute(population.values(changed))
            state = update(tasks).where(tasks.c.name == after.round.task)
            scales = {} if norm_scales_json is None else {"norm_scales_json": norm_scales_json}
            connection.execute(state.values(optimizer_state_key=optimizer_state_key, **scales))
            return after

        return await self._transactions.run(transaction)

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        """End a ``personalize`` round, and store its population's new personalisation."""

        def transaction(connection: Connection) -> RoundRecord:
            ended = advance_round(connection, round_id, event, at)
            if after is not None:
                change = update(populations).where(
                    populations.c.name == ended.round.population,
                    populations.c.personalisation_json.is_not_distinct_from(before),
                )
                if connection.execute(change.values(personalisation_json=after)).rowcount != 1:
                    raise Superseded(round_id)
            return ended

        return await self._transactions.run(transaction)

    async def publish_evaluation(
        self, round_id: RoundId, event: Summarised, evaluation: EvaluationRecord, at: datetime
    ) -> RoundRecord:
        """End an ``evaluate`` round, and store its summed metrics."""

        def transaction(connection: Connection) -> RoundRecord:
            ended = advance_round(connection, round_id, event, at)
            connection.execute(insert(evaluations).values(asdict(evaluation)))
            return ended

        return await self._transactions.run(transaction)

    async def clear_up(self, round_id: RoundId) -> None:
        """Delete the rows that a finished round does not need any more."""
        forgotten = (assignments.c.round_id == round_id) & assignments.c.device.not_in(select(devices.c.id))

        def transaction(connection: Connection) -> None:
            lock_rows(connection, assignments, forgotten)
            connection.execute(delete(assignments).where(forgotten))
            connection.execute(delete(partials).where(partials.c.round_id == round_id))

        await self._transactions.run(transaction)


def _document(connection: Connection, round_id: str) -> Document:
    return round_document(lock_round(connection, RoundId(round_id)))
