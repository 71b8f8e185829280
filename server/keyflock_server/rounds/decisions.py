"""What is due now: pure questions that the coordinator asks of a round at every pass."""

from datetime import datetime
from enum import Enum, auto

from keyflock_server.rounds.round import Phase, Round


class Due(Enum):
    """What should happen to a collecting round."""

    NOTHING = auto()
    #: Commit what is pending, then close.
    CLOSE = auto()
    #: Too few came: end it without a version.
    ABANDON = auto()


def due(current: Round, pending: int, now: datetime) -> Due:
    """Whether the round should end.

    Args:
        current: The round.
        pending: Reports summed in memory and not yet committed.
        now: This instant.
    """
    policy = current.spec.round
    if current.phase is not Phase.COLLECTING:
        return Due.NOTHING
    if current.counted >= policy.goal:
        return Due.CLOSE
    if now < current.deadline_at and not _is_hopeless(current, pending):
        return Due.NOTHING
    committable = pending if pending >= policy.min_flush_clients else 0
    return Due.CLOSE if current.counted + committable >= policy.minimum_reports else Due.ABANDON


def may_flush(current: Round, pending: int) -> bool:
    """Whether the pending reports may be committed now, leaving neither too few behind nor too few to come.

    A flush of fewer than ``min_flush_clients`` would let whoever compares two stored sums see so few phones'
    part; so the last flush of a round must not be left with less either.

    Source: docs/decisions/0004.
    """
    policy = current.spec.round
    if pending < policy.min_flush_clients:
        return False
    remaining = policy.goal - current.counted - pending
    return remaining <= 0 or remaining >= policy.min_flush_clients


def is_goal_met(current: Round, pending: int) -> bool:
    """Whether one report more would be one too many."""
    return current.phase is not Phase.COLLECTING or current.counted + pending >= current.spec.round.goal


def _is_hopeless(current: Round, pending: int) -> bool:
    """Whether no report can come any more: all slots are taken, and nobody is left to report."""
    return current.slots_left == 0 and current.outstanding <= pending
