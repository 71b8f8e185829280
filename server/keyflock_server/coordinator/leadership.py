"""Which of several processes opens and closes rounds: one, by a lease in the store.

Leases only save work. Were two processes to believe themselves leader at once (a clock that jumped, a process
that slept), each would find that the round has moved on: the store takes every event of a round once.

Source: Gray and Cheriton 1989, "Leases"; their clocks are the processes' own here.
"""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.surroundings import Surroundings

LEADER: Final = "leader"
SLOTS: Final = "replica-"
#: Replicas of one store.
_MAX_REPLICAS: Final = 64


class Leadership:
    """This process's leases: its slot among the replicas, and the leader's if nobody else has it."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._slot = ""
        self._renewed_at: datetime | None = None
        self._leads = False
        self.peers = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process opens and closes rounds in the pass at hand.

        As of the last renewal, however long ago the lease has run out since: where a pass takes longer than
        the lease, two that lead do no harm, and with nobody to lead nothing would ever close.
        """
        return self._world.is_sole or self._leads

    async def renew(self) -> None:
        """Keep what is held, take what is free, and count the others; due three times a lease."""
        world, now = self._world, self._world.clock()
        is_fresh = self._renewed_at is not None and (
            timedelta(0) <= now - self._renewed_at < timedelta(seconds=world.lease_s / 3)
        )
        if world.is_sole or is_fresh:
            return
        await self._keep_slot(now)
        lease = await world.store.leases.acquire(LEADER, world.replica, world.lease_s, now)
        self._leads = lease.holder == world.replica
        others = await world.store.leases.held(SLOTS, now)
        self.peers = sum(other.holder != world.replica for other in others)
        self._renewed_at = now

    async def release(self) -> None:
        """Let another process lead at once."""
        leases, replica = self._world.store.leases, self._world.replica
        self._leads = False
        if not self._world.is_sole:
            await leases.release(LEADER, replica)
            await leases.release(self._slot, replica)

    async def _keep_slot(self, now: datetime) -> None:
        world = self._world
        free = [f"{SLOTS}{number:02}" for number in range(_MAX_REPLICAS)]
        for name in [self._slot, *free] if self._slot else free:
            lease = await world.store.leases.acquire(name, world.replica, world.lease_s, now)
            if lease.holder == world.replica:
                self._slot = name
                return
