"""Expired assignments in SQL: how they are selected and marked."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import itemgetter

from sqlalchemy import ColumnElement, Connection, and_, bindparam, exists, literal, or_, select, update

from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.rounds.round import Round
from keyflock_server.storage.records import AssignmentRecord, AssignmentState, is_silence
from keyflock_server.storage.sql.assignments import assignment_record
from keyflock_server.storage.tables import OPEN_ASSIGNMENT, assignments, devices, rounds

#: Assignments of an asynchronous task that are older than so many deadlines are not searched any more.
_LOOKED_BACK = 8


def due_assignments(
    connection: Connection,
    current: Round,
    before: datetime,
    excluded: Collection[AssignmentId],
    *,
    lock: bool = False,
) -> list[AssignmentRecord]:
    """Return the open assignments of a round, or of an asynchronous task, that have expired by then.

    Args:
        connection: A connection, in a transaction if the rows are to be locked.
        current: The round.
        before: As in ``RoundRepository.expire``.
        excluded: Assignments that do not expire.
        lock: Whether to lock the rows against other transactions until this one ends.
    """
    query = select(assignments).where(OPEN_ASSIGNMENT, _of(current, before))
    if lock:
        # Locks in the order of a flush and of forgetting; a buffer may have assignments of several rounds.
        query = query.order_by(assignments.c.round_id, assignments.c.device).with_for_update()
    rows = [assignment_record(row) for row in connection.execute(query)]
    return [row for row in rows if row.runs_out_at(current) <= before and row.id not in excluded]


def mark_expired(
    connection: Connection,
    current: Round,
    due: Sequence[AssignmentRecord],
    rejected: Collection[AssignmentId],
    now: datetime,
) -> None:
    """Mark these assignments as expired, and count a silence of each device whose report was not rejected.

    Args:
        connection: A connection in a transaction that has locked the round.
        current: The round.
        due: The assignments.
        rejected: As in ``RoundRepository.expire``.
        now: When the devices' facts change.
    """
    expired = (
        update(assignments)
        .where(
            assignments.c.round_id == bindparam("of_round"), assignments.c.device == bindparam("of_device")
        )
        .values(state=AssignmentState.EXPIRED)
    )
    rows = [{"of_round": row.round_id, "of_device": row.device} for row in due]
    connection.execute(expired, rows)
    silences = [
        {"of_device": row.device, "ended_at": row.runs_out_at(current), "at": now}
        for row in due
        if row.id not in rejected and is_silence(row, current)
    ]
    if silences:
        more = update(devices).where(devices.c.id == bindparam("of_device"))
        more = more.values(
            silences=devices.c.silences + 1,
            last_silent_at=bindparam("ended_at"),
            changed_at=bindparam("at"),
        )
        connection.execute(more, sorted(silences, key=itemgetter("of_device")))


def _of(current: Round, before: datetime) -> ColumnElement[bool]:
    if not current.is_async:
        # An assignment ends with its round at the latest.
        runs_out = or_(assignments.c.expires_at <= before, literal(before >= current.deadline_at))
        return and_(assignments.c.round_id == current.id, runs_out)
    life = timedelta(seconds=current.spec.round.deadline_s)
    # A join might begin with all rounds of the task.
    is_its = exists().where(rounds.c.id == assignments.c.round_id, rounds.c.task == current.task)
    return and_(
        assignments.c.assigned_at > before - _LOOKED_BACK * life,
        assignments.c.assigned_at <= before - life,
        is_its,
    )
