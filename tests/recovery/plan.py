"""When and whom: the killing plan, drawn from a seed.

Kills at moments that are uniform in time would mostly meet rounds that collect, for closing one takes some
hundredths of a second. So half of the moments are counted in receipts, a few hundredths of a second after the
one that was drawn: receipts come when a flush has been committed, and every eighth one begins a closing. Some
servers are killed while they start, in the middle of going on with what the last kill interrupted.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.recovery.marks import ROUND_GOAL


class Target(StrEnum):
    """Who is meant."""

    #: The one server of a store that has one.
    SERVER = "server"
    #: The replica that opens and closes rounds.
    LEADER = "leader"
    #: A replica that does not lead.
    FOLLOWER = "replica"
    #: All of them at once.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Blow:
    """One moment, and what happens then."""

    target: Target
    #: Receipts that phones must get first, counted from when the servers are ready.
    receipts: int
    #: Then so long.
    pause_s: float
    #: Not even waiting until the servers are ready.
    is_early: bool
    #: Above 0: the target hangs for so long, and is not killed.
    hang_s: float = 0.0


#: Shares of the moments.
_AFTER_RECEIPTS: Final = 0.55
_EARLY: Final = 0.2
#: And of the blows to several replicas.
_HANGS: Final = 0.05
_TARGETS: Final = {Target.LEADER: 0.45, Target.FOLLOWER: 0.45, Target.ALL: 0.1}


class KillingPlan:
    """Draws blows without end.

    Args:
        rng: Draws.
        lease_s: Of the leader; None for one server alone, which has no lease and never hangs.
    """

    def __init__(self, rng: random.Random, lease_s: float | None) -> None:
        self._rng = rng
        self._lease_s = lease_s

    def next(self) -> Blow:
        """One more."""
        rng, kind = self._rng, self._rng.random()
        if kind < _AFTER_RECEIPTS:
            receipts, pause_s = rng.randint(1, 2 * ROUND_GOAL), rng.uniform(0.0, 0.06)
        else:
            receipts, pause_s = 0, rng.uniform(0.0, 0.6)
        is_early = _AFTER_RECEIPTS <= kind < _AFTER_RECEIPTS + _EARLY
        if self._lease_s is None:
            return Blow(Target.SERVER, receipts, pause_s, is_early)
        hang_s = rng.uniform(1.2, 2.5) * self._lease_s if rng.random() < _HANGS else 0.0
        shares = [0.7, 0.3, 0.0] if hang_s else list(_TARGETS.values())
        target = rng.choices(list(_TARGETS), shares)[0]
        return Blow(target, receipts, pause_s, is_early and not hang_s, hang_s)
