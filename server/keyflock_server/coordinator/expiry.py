"""Assignments expire within their round, so that their slots go to other devices.

The leader expires them at its passes, and once more when a round ends. No device is quarantined for a lost
connection: a repeated silence costs a part of the device's claim to the next slots
(``rounds.selection.claim_ratio``).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.records import AssignmentState, is_silence

#: Time between two queries to the store about one task.
_ASK_INTERVAL: Final = timedelta(seconds=5)


class Expiry:
    """Expires assignments whose devices sent nothing."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._asked_at: WeakKeyDictionary[TaskState, datetime] = WeakKeyDictionary()

    async def expire_due(self, state: TaskState, opened: OpenRound, *, has_peers: bool) -> None:
        """Expire the assignments of a collecting round whose reports would no longer be accepted.

        A device that still had time when the round began to close was not silent, however long it is held.

        Args:
            state: The task.
            opened: Its round.
            has_peers: Whether another process may still have to count a report; it is given the time.
        """
        now = self._deps.clock()
        asked_at = self._asked_at.get(state)
        has_none = opened.round.outstanding == 0 and not opened.round.is_async
        is_idle = has_none or opened.round.phase is not Phase.COLLECTING
        if is_idle or (asked_at is not None and timedelta(0) <= now - asked_at < _ASK_INTERVAL):
            return
        self._asked_at[state] = now
        grace_s = self._deps.tokens.leeway_s + (self._deps.ack_wait_s if has_peers else 0.0)
        await self._expire(state, opened, now - timedelta(seconds=grace_s))

    async def end(self, state: TaskState, opened: OpenRound) -> None:
        """Expire what is due in a synchronous round that accepts no more reports.

        This follows the round's last event: until then another process may count its pending reports. If a
        process dies in between, this round's devices have no silence on record.
        """
        if not opened.round.is_async:
            await self._expire(state, opened, self._deps.clock())

    async def _expire(self, state: TaskState, opened: OpenRound, before: datetime) -> None:
        async with state.row_lock:
            # Pending reports arrived in time.
            known = await self._deps.store.rounds.expire(
                opened.id,
                before,
                excluded=opened.batch.ids,
                rejected=opened.report_arrivals,
                now=self._deps.clock(),
            )
            if known is None:
                return
            record, expired = known
            was_expired = opened.round.expired
            for id_ in expired:
                if (member := opened.members.get(id_)) is not None:
                    opened.members[id_] = replace(member, state=AssignmentState.EXPIRED)
                    if id_ not in opened.report_arrivals and is_silence(member, record.round):
                        self._deps.activity.fell_silent(member.device, member.runs_out_at(record.round))
            opened.refresh(record)
        is_collecting = record.round.phase is Phase.COLLECTING
        total = record.round.expired if is_collecting else was_expired + len(expired)
        self._deps.observer.assignments_expired(
            state.task,
            record.round.sequence,
            len(expired),
            is_mostly=was_expired < state.spec.round.slots / 2 <= total,
        )
