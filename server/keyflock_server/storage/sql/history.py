"""What became of a task's last rounds, for ``rounds.tuning``: columns only, never the rounds' tasks."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.records import AssignmentState, PastAssignment, history_from
from keyflock_server.storage.tables import assignments, rounds

#: A cancelled round was ended by an operator, and says nothing of its phones.
_MISSED = (Phase.CARRIED, Phase.ABANDONED)
_TELLING = (Phase.PUBLISHED, Phase.CLOSED, *_MISSED)


async def history_of(connection: AsyncConnection, task: TaskName, limit: int, most: int) -> RoundHistory:
    """As ``door.RoundTable.history``."""
    latest = (
        select(rounds.c.id, rounds.c.phase, rounds.c.opened_at, rounds.c.closed_at)
        .where(
            rounds.c.task == task,
            rounds.c.phase.in_(_TELLING),
            rounds.c.closed_at.is_not(None),
            # Its end was an operator's, too: as late as somebody looked at what held it.
            rounds.c.is_accepted.is_(False),
        )
        .order_by(rounds.c.sequence.desc())
        .limit(limit)
    )
    past = {row.id: row for row in await connection.execute(latest)}
    outcomes: list[PastAssignment] = []
    for round_id, row in past.items():
        if len(outcomes) >= most:
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
            .limit(most - len(outcomes))
        )
        outcomes += [
            PastAssignment(
                AssignmentState(one.state),
                row.opened_at,
                row.closed_at,
                one.assigned_at,
                one.counted_at,
                one.expires_at,
            )
            for one in await connection.execute(query)
        ]
    durations = [(row.opened_at, row.closed_at) for row in past.values() if Phase(row.phase) not in _MISSED]
    return history_from(durations, outcomes)
