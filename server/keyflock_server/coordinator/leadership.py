"""One of several processes opens and closes rounds: the leader, by a lease in the store.

Leases only save work. If two processes believe that they lead (a clock jumped, a process slept), each finds
that the round has moved on: the store accepts every event of a round once.

Source: Gray and Cheriton 1989, "Leases"; their clocks are the processes' own here.
"""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies

LEADER: Final = "leader"
SLOTS: Final = "replica-"
#: Maximum number of replicas of one store.
_MAX_REPLICAS: Final = 64


class Leadership:
    """Holds this process's leases: its slot among the replicas, and the leader's if it is free."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._slot = ""
        self._renewed_at: datetime | None = None
        self._leads = False
        self.peers = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process opens and closes rounds in the current pass.

        This holds from the last renewal, even after the lease has run out: where a pass takes longer than the
        lease, two leaders do no harm, and without a leader nothing would ever close.
        """
        return self._deps.is_sole or self._leads

    async def renew(self) -> None:
        """Renew the leases, take free ones, and count the other replicas; due three times a lease."""
        deps, now = self._deps, self._deps.clock()
        is_fresh = self._renewed_at is not None and (
            timedelta(0) <= now - self._renewed_at < timedelta(seconds=deps.lease_s / 3)
        )
        if deps.is_sole or is_fresh:
            return
        await self._keep_slot(now)
        lease = await deps.store.leases.acquire(LEADER, deps.replica, deps.lease_s, now)
        self._leads = lease.holder == deps.replica
        others = await deps.store.leases.held(SLOTS, now)
        self.peers = sum(other.holder != deps.replica for other in others)
        self._renewed_at = now

    async def release(self) -> None:
        """Let another process lead at once."""
        leases, replica = self._deps.store.leases, self._deps.replica
        self._leads = False
        if not self._deps.is_sole:
            await leases.release(LEADER, replica)
            await leases.release(self._slot, replica)

    async def _keep_slot(self, now: datetime) -> None:
        deps = self._deps
        free = [f"{SLOTS}{number:02}" for number in range(_MAX_REPLICAS)]
        for name in [self._slot, *free] if self._slot else free:
            lease = await deps.store.leases.acquire(name, deps.replica, deps.lease_s, now)
            if lease.holder == deps.replica:
                self._slot = name
                return
