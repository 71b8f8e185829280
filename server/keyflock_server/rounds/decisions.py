"""What is due now: pure questions that the coordinator asks of a round at every pass."""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final, NamedTuple

from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Phase, Round

#: Clocks of replicas may differ so much without anybody's having been set back.
CLOCKS_DIFFER: Final = timedelta(seconds=60)


class Pending(NamedTuple):
    """Reports that are summed in memory and not yet committed."""

    #: All of them.
    reports: int
    #: Those that a flush is larger by: distinct, and not nearly nothing. The others are committed with them.
    distinct: int


class Due(Enum):
    """What should happen to a collecting round."""

    NOTHING = auto()
    #: The clock was set back: begin its time anew.
    REDATE = auto()
    #: Commit what is pending, then close.
    CLOSE = auto()
    #: Too few came: end it without a version, and let the next round begin with those few.
    CARRY = auto()
    #: Too few came: end it without a version.
    ABANDON = auto()


def due(current: Round, pending: Pending, now: datetime) -> Due:
    """Whether the round should end.

    Args:
        current: The round.
        pending: What waits to be committed.
        now: This instant.
    """
    policy = current.spec.round
    if current.phase is not Phase.COLLECTING:
        return Due.NOTHING
    if current.reports >= policy.goal:
        return Due.CLOSE
    if now < current.opened_at - CLOCKS_DIFFER:
        return Due.REDATE
    if current.is_async or (now < current.deadline_at and not _is_hopeless(current, pending)):
        return Due.NOTHING
    committable = pending.reports if is_enough(current, pending) else 0
    if current.reports + committable >= policy.minimum_reports:
        return Due.CLOSE
    # The next round of kind personalize tries other settings: what was said of these says nothing of those.
    may_carry = policy.on_miss == "carry" and current.spec.kind is TaskKind.TRAIN
    return Due.CARRY if may_carry and current.reports + committable > 0 else Due.ABANDON


def is_enough(current: Round, pending: Pending) -> bool:
    """Whether a flush of what is pending would hold as many distinct reports as the task wants together."""
    return pending.distinct >= current.spec.round.min_flush_clients


def may_flush(current: Round, pending: Pending) -> bool:
    """Whether the pending reports may be committed now, leaving neither too few behind nor too few to come.

    A flush of fewer than ``min_flush_clients`` distinct reports would let whoever compares two stored sums
    see so few phones' part; so the last flush of a round must not be left with less either. With several
    replicas each sees only what waits with itself: what is left over then waits for phones that come again,
    or for the deadline. What is still to come may turn out not to be distinct: then it waits likewise.

    Source: docs/decisions/0004.
    """
    if not is_enough(current, pending):
        return False
    policy = current.spec.round
    remaining = policy.goal - current.reports - pending.reports
    return remaining <= 0 or remaining >= policy.min_flush_clients


def is_goal_met(current: Round, pending: Pending) -> bool:
    """Whether one report more would be one too many.

    Never before enough wait for a flush: other replicas, or a missed round, may have left fewer to come, and
    reports that are not distinct must not keep out those that are.
    """
    policy = current.spec.round
    if current.phase is not Phase.COLLECTING or current.reports >= policy.goal:
        return True
    return pending.reports >= policy.goal - current.reports and is_enough(current, pending)


def _is_hopeless(current: Round, pending: Pending) -> bool:
    """Whether no report can come any more: all slots are taken, and nobody is left to report."""
    return current.slots_left == 0 and current.outstanding <= pending.reports
