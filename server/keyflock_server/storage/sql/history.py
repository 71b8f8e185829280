"""How a task's last rounds ended, for ``rounds.tuning``; it reads columns only, never the rounds' tasks."""

from sqlalchemy import Connection, select

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.records import AssignmentState, PastAssignment, round_history
from keyflock_server.storage.sql.rows import damaged_row
from keyflock_server.storage.tables import assignments, rounds

#: Cancelled rounds are left out: an operator ended them, so they show nothing about the phones.
_MISSED = (Phase.CARRIED, Phase.ABANDONED)
_TELLING = (Phase.PUBLISHED, Phase.CLOSED, *_MISSED)


def history_of(connection: Connection, task: TaskName, max_rounds: int, max_assignments: int) -> RoundHistory:
    """Return how a task's last rounds ended, as ``RoundRepository.history`` specifies."""
    latest = (
        select(rounds.c.id, rounds.c.phase, rounds.c.opened_at, rounds.c.closed_at)
        .where(
            rounds.c.task == task,
            rounds.c.phase.in_(_TELLING),
            rounds.c.closed_at.is_not(None),
            # An operator ended such a round, too, as late as somebody looked at it.
            rounds.c.is_accepted.is_(False),
        )
        .order_by(rounds.c.sequence.desc())
        .limit(max_rounds)
    )
    past = {row.id: row for row in connection.execute(latest)}
    outcomes: list[PastAssignment] = []
    for round_id, row in past.items():
        if len(outcomes) >= max_assignments:
            break
        query = (
            select(
                assignments.c.state,
                assignments.c.assigned_at,
                assignments.c.counted_at,
                assignments.c.expires_at,
            )
            .where(assignments.c.round_id == round_id)
            .order_by(assignments.c.device)
            .limit(max_assignments - len(outcomes))
        )
        rows = connection.execute(query)
        with damaged_row(f"an assignment of round {round_id}"):
            outcomes += [
                PastAssignment(
                    AssignmentState(one.state),
                    row.opened_at,
                    row.closed_at,
                    one.assigned_at,
                    one.counted_at,
                    one.expires_at,
                )
                for one in rows
            ]
    durations = [(row.opened_at, row.closed_at) for row in past.values() if Phase(row.phase) not in _MISSED]
    return round_history(durations, outcomes)
