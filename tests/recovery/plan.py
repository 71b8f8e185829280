"""When and whom: the killing plan, drawn from a seed.

Kills at moments that are uniform in time would mostly meet rounds that collect, for closing one takes some
hundredths of a second. So half of the moments are counted in receipts, a few hundredths of a second after the
one that was drawn: receipts come when a flush has been committed, and every eighth one begins a closing. Some
servers are killed while they start, in the middle of going on with what the last kill interrupted.

Half of the blows wait for a model version that was made since the last one: killed without end before their
first closing, servers would never get anywhere, and nothing would be learned.
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
    #: A round must have closed since the last blow.
    after_version: bool
    #: Not even waiting until the servers are ready.
    is_early: bool
    #: Receipts that phones must get then.
    receipts: int
    #: Then so long.
    pause_s: float
    #: Above 0: the target hangs for so long, and is not killed.
    hang_s: float = 0.0


#: Shares of the moments; the rest are an early one, and uniform in time.
_AFTER_RECEIPTS: Final = 0.6
_EARLY: Final = 0.2
_AFTER_VERSION: Final = 0.5
#: And of the blows to several replicas.
_HANGS: Final = 0.08
_TARGETS: Final = {Target.LEADER: 0.45, Target.FOLLOWER: 0.47, Target.ALL: 0.08}


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
        is_early = kind < _EARLY
        after_version = not is_early and rng.random() < _AFTER_VERSION
        receipts = rng.randint(1, 2 * ROUND_GOAL) if _EARLY <= kind < _EARLY + _AFTER_RECEIPTS else 0
        pause_s = rng.uniform(0.0, 0.06 if receipts else 0.6)
        if self._lease_s is None:
            return Blow(Target.SERVER, after_version, is_early, receipts, pause_s)
        is_hang = rng.random() < _HANGS
        hang_s = rng.uniform(1.2, 2.5) * self._lease_s if is_hang else 0.0
        shares = [0.7, 0.3, 0.0] if is_hang else list(_TARGETS.values())
        target = rng.choices(list(_TARGETS), shares)[0]
        return Blow(target, after_version, is_early, receipts, pause_s, hang_s)
