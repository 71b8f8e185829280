"""A device with too many rejected reports is quarantined.

A rejected report is a violation, at most one a round: a phone that sends the same bad bytes five times has
erred once. A number of violations within a time (the task's ``[quarantine]``) keeps the device out, each time
for longer. A fault of the server is never a violation, nor is a delta's length alone; nor is a rejection that
concerns most of a round's devices.

The functions are pure: the instant is an argument, and the caller stores the result.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct, field

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.task import QuarantinePolicy

#: Rejecting so few devices in a round does not show that their common build or task is at fault.
_MAX_UNSYSTEMIC: Final = 3


class QuarantinedBy(StrEnum):
    """The origin of a quarantine."""

    POLICY = "policy"
    OPERATOR = "operator"


class Violation(Struct, frozen=True, kw_only=True):
    """One round in which a report of the device was rejected."""

    at: datetime
    round: RoundId
    #: Value of an ``aggregation.verdicts.Verdict``.
    verdict: str


class QuarantinePeriod(Struct, frozen=True, kw_only=True):
    """The reason and duration of one quarantine."""

    since: datetime
    until: datetime
    #: A sentence for an operator; phones do not get it.
    reason: str
    by: QuarantinedBy


class Quarantine(Struct, frozen=True, kw_only=True):
    """A device's violations and its last quarantine."""

    #: Violations since the last quarantine, as far as the policy still counts them.
    violations: tuple[Violation, ...] = field(default=(), name="strikes")
    #: The last quarantine, also when it is over.
    last: QuarantinePeriod | None = field(default=None, name="quarantine")
    #: Number of consecutive quarantines.
    quarantines: int = 0

    def is_quarantined(self, now: datetime) -> bool:
        """Return whether the device is kept out now."""
        return self.last is not None and now < self.last.until

    def to_json(self) -> bytes:
        """Return the JSON in which it is stored."""
        return msgspec.json.encode(self)


def stored_quarantine(data: bytes | None) -> Quarantine:
    """Decode what ``to_json`` wrote; None stands for a device without violations."""
    return Quarantine() if data is None else msgspec.json.decode(data, type=Quarantine)


def after_violation(before: Quarantine, violation: Violation, policy: QuarantinePolicy) -> Quarantine | None:
    """Return the device's quarantine after a violation; None if it changes nothing.

    Args:
        before: Its quarantine and violations so far.
        violation: The new violation; its instant is now.
        policy: The task's policy.
    Edge cases:
        the round has a violation already, the device is quarantined, or ``policy.refusals`` is 0 -> None
        the last quarantine is longer ago than the longest one -> the next is as long as a first one
    """
    now = violation.at
    is_repeated = any(known.round == violation.round for known in before.violations)
    if policy.refusals == 0 or is_repeated or before.is_quarantined(now):
        return None
    since = now - timedelta(seconds=policy.within_s)
    violations = (*(known for known in before.violations if known.at > since), violation)
    if len(violations) < policy.refusals:
        return Quarantine(violations=violations, last=before.last, quarantines=before.quarantines)
    served = before.quarantines
    longest = timedelta(seconds=policy.max_duration_s)
    if before.last is None or now - before.last.until > longest:
        served = 0
    duration = min(longest, timedelta(seconds=_next_duration_s(policy, served)))
    days = policy.within_s / 86_400
    verdicts = ", ".join(known.verdict for known in violations)
    reason = f"Refused reports in {len(violations)} of its rounds within {days:g} days: {verdicts}."
    quarantine = QuarantinePeriod(since=now, until=now + duration, reason=reason, by=QuarantinedBy.POLICY)
    return Quarantine(last=quarantine, quarantines=served + 1)


def quarantined_by_operator(before: Quarantine, reason: str, now: datetime, duration_s: float) -> Quarantine:
    """Return the quarantine of a device that an operator keeps out from now on."""
    until = now + timedelta(seconds=duration_s)
    quarantine = QuarantinePeriod(since=now, until=until, reason=reason, by=QuarantinedBy.OPERATOR)
    return Quarantine(violations=before.violations, last=quarantine, quarantines=before.quarantines)


def inherited_quarantine(until: datetime, now: datetime) -> Quarantine:
    """Return the quarantine of a device that was kept out, was erased, and has enrolled anew."""
    reason = "It was kept out before it enrolled anew."
    quarantine = QuarantinePeriod(since=now, until=until, reason=reason, by=QuarantinedBy.POLICY)
    return Quarantine(last=quarantine, quarantines=1)


def is_systemic(accepted: int, refused: int) -> bool:
    """Return whether rejections point to the task, the server or the app's build, not to the devices.

    Args:
        accepted: Reports of the round that were accepted.
        refused: Devices of the round with a rejected report, this one included.
    """
    return refused > max(_MAX_UNSYSTEMIC, accepted)


def _next_duration_s(policy: QuarantinePolicy, served: int) -> float:
    # Past a hundred the longest is reached whatever the growth, and a power would overflow.
    return min(policy.max_duration_s, policy.duration_s * policy.growth ** min(served, 100))
