"""Decisions about a round that the coordinator makes at every pass. The functions are pure."""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final, NamedTuple

from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Phase, Round

#: Allowed difference between the clocks of replicas.
CLOCKS_DIFFER: Final = timedelta(seconds=60)
#: Number of selection windows in which no device of a small population took a free slot: none is left.
DESERTED_AFTER_WINDOWS: Final = 3.0


class Pending(NamedTuple):
    """Numbers of reports that are summed in memory and not yet committed."""

    #: All pending reports.
    reports: int
    #: Distinct reports that are not nearly zero. The others are committed with them, but do not count.
    distinct: int


class Due(Enum):
    """The next step of a collecting round."""

    NOTHING = auto()
    #: The clock was set back: begin its deadline again.
    RESET_DEADLINE = auto()
    #: Commit what is pending, then close.
    CLOSE = auto()
    #: Too few reports came: end it without a version, and carry them into the next round.
    CARRY = auto()
    #: Too few reports came: end it without a version.
    ABANDON = auto()


def due(
    current: Round, pending: Pending, now: datetime, *, is_deserted: bool = False, is_moot: bool = False
) -> Due:
    """Return whether and how the round should end now.

    Args:
        current: The round.
        pending: The reports that wait to be committed.
        now: The current time.
        is_deserted: Whether no device is left to take the free slots.
        is_moot: Whether nobody asks for its result any more: it ends as at its deadline.
    Edge cases:
        deserted before its deadline, and nobody took a slot or its reports would be dropped -> nothing
    """
    policy = current.spec.round
    if current.phase is not Phase.COLLECTING:
        return Due.NOTHING
    if current.reports >= policy.goal:
        return Due.CLOSE
    if now < current.opened_at - CLOCKS_DIFFER:
        return Due.RESET_DEADLINE
    has_time = now < current.deadline_at and not is_moot
    is_early = has_time and current.slots_left > 0
    if current.is_async or (has_time and not _is_settled(current, pending)):
        return Due.NOTHING
    if is_early and not (is_deserted and current.assigned):
        return Due.NOTHING
    committable = pending.reports if is_enough(current, pending) else 0
    if current.reports + committable >= policy.minimum_reports:
        return Due.CLOSE
    # The next ``personalize`` round tries other settings, and the next ``evaluate`` round may compare others.
    may_carry = policy.on_miss == "carry" and current.spec.kind is TaskKind.TRAIN
    if may_carry and current.reports + committable > 0:
        return Due.CARRY
    return Due.NOTHING if is_early else Due.ABANDON


def is_enough(current: Round, pending: Pending) -> bool:
    """Return whether a flush of the pending reports would hold enough distinct ones."""
    return pending.distinct >= current.spec.round.min_flush_clients


def may_flush(current: Round, pending: Pending) -> bool:
    """Return whether the pending reports may be committed now, with enough reports left for the last flush.

    A flush of fewer than ``min_flush_clients`` distinct reports would show the sum of so few phones to anyone
    who compares two stored sums; so the last flush of a round must not have fewer either. With several
    replicas each sees only its own pending reports: a remainder waits for phones that come again, or for the
    deadline. Reports still to come may turn out not to be distinct: then they wait likewise.

    Source: docs/decisions/0004.
    """
    if not is_enough(current, pending):
        return False
    policy = current.spec.round
    remaining = policy.goal - current.reports - pending.reports
    return remaining <= 0 or remaining >= policy.min_flush_clients


def is_goal_met(current: Round, pending: Pending) -> bool:
    """Return whether the round needs no further report.

    It is never so before enough reports wait for a flush: other replicas, or a missed round, may have left
    fewer to come, and reports that are not distinct must not keep out those that are.
    """
    policy = current.spec.round
    if current.phase is not Phase.COLLECTING or current.reports >= policy.goal:
        return True
    return pending.reports >= policy.goal - current.reports and is_enough(current, pending)


def _is_settled(current: Round, pending: Pending) -> bool:
    """Return whether every device that took a slot has answered: without another, no report can come."""
    return current.outstanding <= pending.reports
