"""The fault plan: when servers are killed or suspended, and which ones, drawn from a seed.

Kills at moments that are uniform in time would mostly hit rounds that collect, for closing a round takes some
hundredths of a second. So more than half of the moments are counted in receipts, a few hundredths of a second
after the one that was drawn: a receipt comes when a flush is committed, and every eighth begins a closing.
Some servers are killed while they start, in the middle of resuming what the last kill interrupted.

Half of the faults wait for a model version that was made since the last one: servers that are always killed
before their first closing would make no progress, and the run would prove nothing.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.recovery.one_hot_fleet import ROUND_GOAL


class FaultTarget(StrEnum):
    """Which servers a fault hits."""

    #: The one server of a store that has one.
    SERVER = "server"
    #: The replica that opens and closes rounds.
    LEADER = "leader"
    #: A replica that does not lead.
    FOLLOWER = "replica"
    #: All of them at once.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One fault: its moment, its target, and whether the target is killed or suspended."""

    target: FaultTarget
    #: Whether a round must have closed since the last fault.
    after_version: bool
    #: Whether the fault hits at once, without waiting until the servers are ready.
    before_ready: bool
    #: How many receipts phones must get first.
    receipts: int
    #: Seconds to wait after that.
    pause_s: float
    #: Above 0, the target is suspended for so many seconds instead of killed.
    hang_s: float = 0.0


#: Shares of the moments: after some receipts, before servers are ready; the rest is uniform in time.
_AFTER_RECEIPTS_SHARE: Final = 0.6
_BEFORE_READY_SHARE: Final = 0.2
_AFTER_VERSION_SHARE: Final = 0.5
#: Share of the faults that suspend, where there are several replicas.
_SUSPEND_SHARE: Final = 0.08
_TARGET_SHARES: Final = {FaultTarget.LEADER: 0.45, FaultTarget.FOLLOWER: 0.47, FaultTarget.ALL: 0.08}


class FaultPlan:
    """Draw faults without end.

    Args:
        rng: Draws the faults.
        lease_s: Duration of the leader's lease; None for one server alone, which is never suspended.
    """

    def __init__(self, rng: random.Random, lease_s: float | None) -> None:
        self._rng = rng
        self._lease_s = lease_s

    def next(self) -> InjectedFault:
        """Draw the next fault."""
        rng, kind = self._rng, self._rng.random()
        before_ready = kind < _BEFORE_READY_SHARE
        after_version = not before_ready and rng.random() < _AFTER_VERSION_SHARE
        receipts = (
            rng.randint(1, 2 * ROUND_GOAL)
            if _BEFORE_READY_SHARE <= kind < _BEFORE_READY_SHARE + _AFTER_RECEIPTS_SHARE
            else 0
        )
        pause_s = rng.uniform(0.0, 0.06 if receipts else 0.6)
        if self._lease_s is None:
            return InjectedFault(FaultTarget.SERVER, after_version, before_ready, receipts, pause_s)
        is_hang = rng.random() < _SUSPEND_SHARE
        hang_s = rng.uniform(1.2, 2.5) * self._lease_s if is_hang else 0.0
        shares = [0.7, 0.3, 0.0] if is_hang else list(_TARGET_SHARES.values())
        target = rng.choices(list(_TARGET_SHARES), shares)[0]
        return InjectedFault(target, after_version, before_ready, receipts, pause_s, hang_s)
