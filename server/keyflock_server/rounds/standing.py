"""What is held against a device: reports that were refused, and the quarantine that too many of them bring.

A refused report is a strike, at most one a round: a phone that sends the same bad bytes five times has erred
once. So many strikes within so long (the task's ``[quarantine]``) keep the device out, each time for longer.
What is the server's trouble is never a strike, nor is a delta's length alone, and what befalls most of a
round is not the devices' either.

Pure: the instant is an argument, and whoever calls writes the result down.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.task import QuarantinePolicy

#: Refusing this many devices in a round proves nothing against the build or the task that they share.
_FEW: Final = 3


class QuarantinedBy(StrEnum):
    """Who decided."""

    POLICY = "policy"
    OPERATOR = "operator"


class Strike(Struct, frozen=True, kw_only=True):
    """One round in which a report of the device was refused."""

    at: datetime
    round: RoundId
    #: A name of ``aggregation.verdicts.Verdict``.
    verdict: str


class Quarantine(Struct, frozen=True, kw_only=True):
    """Why and for how long a device is kept out."""

    since: datetime
    until: datetime
    #: In words, for an operator; phones are not told.
    reason: str
    by: QuarantinedBy


class Standing(Struct, frozen=True, kw_only=True):
    """All that is held against one device."""

    #: Since its last quarantine; only those that the policy still looks at.
    strikes: tuple[Strike, ...] = ()
    #: The last one, also when it is over.
    quarantine: Quarantine | None = None
    #: How many there were, one after the other.
    quarantines: int = 0

    def is_quarantined(self, now: datetime) -> bool:
        """Whether it is kept out now."""
        return self.quarantine is not None and now < self.quarantine.until

    def to_json(self) -> bytes:
        """The form in which it is stored."""
        return msgspec.json.encode(self)


def stored_standing(data: bytes | None) -> Standing:
    """What ``to_json`` wrote; None: nothing is held against the device."""
    return Standing() if data is None else msgspec.json.decode(data, type=Standing)


def after_refusal(before: Standing, strike: Strike, policy: QuarantinePolicy) -> Standing | None:
    """What is held against a device once a report of it was refused; None if this changes nothing.

    Args:
        before: What was held against it.
        strike: The refusal; its instant is now.
        policy: The task's.
    Edge cases:
        the round has struck already, the device is quarantined, or ``policy.refusals`` is 0 -> None
        the last quarantine is longer ago than the longest one -> the next is as long as a first one
    """
    now = strike.at
    has_struck = any(known.round == strike.round for known in before.strikes)
    if policy.refusals == 0 or has_struck or before.is_quarantined(now):
        return None
    since = now - timedelta(seconds=policy.within_s)
    strikes = (*(known for known in before.strikes if known.at > since), strike)
    if len(strikes) < policy.refusals:
        return Standing(strikes=strikes, quarantine=before.quarantine, quarantines=before.quarantines)
    served = before.quarantines
    longest = timedelta(seconds=policy.max_duration_s)
    if before.quarantine is None or now - before.quarantine.until > longest:
        served = 0
    duration = min(longest, timedelta(seconds=_grown(policy, served)))
    days = policy.within_s / 86_400
    verdicts = ", ".join(known.verdict for known in strikes)
    reason = f"Refused reports in {len(strikes)} of its rounds within {days:g} days: {verdicts}."
    quarantine = Quarantine(since=now, until=now + duration, reason=reason, by=QuarantinedBy.POLICY)
    return Standing(quarantine=quarantine, quarantines=served + 1)


def by_operator(before: Standing, reason: str, now: datetime, duration_s: float) -> Standing:
    """What is held against a device that an operator keeps out from now on."""
    until = now + timedelta(seconds=duration_s)
    quarantine = Quarantine(since=now, until=until, reason=reason, by=QuarantinedBy.OPERATOR)
    return Standing(strikes=before.strikes, quarantine=quarantine, quarantines=before.quarantines)


def inherited_standing(until: datetime, now: datetime) -> Standing:
    """Return what is held against a device that was kept out, was forgotten, and has enrolled anew."""
    reason = "It was kept out before it enrolled anew."
    quarantine = Quarantine(since=now, until=until, reason=reason, by=QuarantinedBy.POLICY)
    return Standing(quarantine=quarantine, quarantines=1)


def is_systemic(accepted: int, refused: int) -> bool:
    """Whether refusals say more of the task, the server or the app's build than of the devices.

    Args:
        accepted: Reports of the round that were taken in.
        refused: Devices of the round of which one was refused, this one too.
    """
    return refused > max(_FEW, accepted)


def _grown(policy: QuarantinePolicy, served: int) -> float:
    # Past a hundred the longest is reached whatever the growth, and a power would overflow.
    return min(policy.max_duration_s, policy.duration_s * policy.growth ** min(served, 100))
