"""Assignments that run out of time within their round: their slots are given to others.

The leader asks for them at its passes, and once more when a round ends. Nobody is kept out for a lost
connection: what a repeated silence costs is a part of the device's claim to the next slots
(``rounds.selection.claim_ratio``).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.records import AssignmentState

#: Between two questions to the store about one task.
_PAUSE: Final = timedelta(seconds=5)


class Expiry:
    """Ends assignments that nothing was heard of."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._asked_at: dict[TaskName, datetime] = {}

    async def expire_due(self, desk: Desk, opened: OpenRound, *, has_peers: bool) -> None:
        """End the assignments of a round that collects whose reports would not be taken any more.

        Whoever still had time when the round began to close was not silent, however long it is held.

        Args:
            desk: The task.
            opened: Its round.
            has_peers: Whether a report may wait to be counted in another process, which is given the time to.
        """
        now = self._world.clock()
        asked_at = self._asked_at.get(desk.task)
        has_none = opened.round.outstanding == 0 and not opened.round.is_async
        is_idle = has_none or opened.round.phase is not Phase.COLLECTING
        if is_idle or (asked_at is not None and timedelta(0) <= now - asked_at < _PAUSE):
            return
        self._asked_at[desk.task] = now
        patience_s = self._world.tokens.leeway_s + (self._world.ack_wait_s if has_peers else 0.0)
        await self._expire(desk, opened, now - timedelta(seconds=patience_s))

    async def end(self, desk: Desk, opened: OpenRound) -> None:
        """End what has run out by now of a synchronous round that takes no reports any more.

        After the round's last event, and not before: until then another process may count what waits there. A
        process that dies in between has held nothing against the devices of this round.
        """
        if not opened.round.is_async:
            await self._expire(desk, opened, self._world.clock())

    async def _expire(self, desk: Desk, opened: OpenRound, before: datetime) -> None:
        async with desk.lock:
            # What waits to be counted has come in time.
            known = await self._world.store.rounds.expire(
                opened.id, before, spared=opened.batch.ids, heard=opened.heard
            )
            if known is None:
                return
            record, expired = known
            was_expired = opened.round.expired
            for id_ in expired:
                if (member := opened.members.get(id_)) is not None:
                    opened.members[id_] = replace(member, state=AssignmentState.EXPIRED)
            opened.learn(record)
        is_collecting = record.round.phase is Phase.COLLECTING
        total = record.round.expired if is_collecting else was_expired + len(expired)
        self._world.observer.assignments_expired(
            desk.task,
            record.round.sequence,
            len(expired),
            is_mostly=was_expired < desk.spec.round.slots / 2 <= total,
        )
