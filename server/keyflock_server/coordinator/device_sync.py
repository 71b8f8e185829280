"""What other processes have written about devices and their assignments is read once a pass.

The bound: a process knows another one's contributions, silences, quarantines and assignments one pass later,
or at most ``_LONGEST_PAUSE`` later while they are so many that reading them takes part of its time; provided
that the clocks of both differ by less than ``_OVERLAP``. A process that is alone reads at its start only.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.device_activity import MAX_DEVICES
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import AssignmentRecord

T = TypeVar("T")

#: Rows that are adopted without a break.
_ADOPTED_AT_ONCE: Final = 500
#: Time span that is read again each time: clocks differ, and transactions commit later than they say.
_OVERLAP: Final = timedelta(seconds=30)
#: Number of rows from which the next read waits until so many a second were read; each takes 15 microseconds.
_MANY_ROWS: Final = 1_000
_ROWS_PER_S: Final = 5_000
_LONGEST_PAUSE: Final = timedelta(seconds=10)
#: How far a process that starts looks back at least: so long a silence is held against a device.
_LOOKED_BACK: Final = timedelta(days=7)
_DROP_INTERVAL: Final = timedelta(minutes=1)


class DeviceSync:
    """Keeps the memory of devices and of rounds' members in step with other processes."""

    def __init__(self, deps: Dependencies, registry: TaskRegistry) -> None:
        self._deps = deps
        self._registry = registry
        self._read_at: datetime | None = None
        self._pause = timedelta(0)
        self._dropped_at: datetime | None = None

    async def refresh(self) -> None:
        """Read what has changed since the last call; the first one reads all that may still matter."""
        now = self._deps.clock()
        if self._read_at is None:
            await self._read_all(now)
        elif not self._deps.is_sole and not (timedelta(0) <= now - self._read_at < self._pause):
            await self._read_changes(min(self._read_at, now) - _OVERLAP, now)
        if self._dropped_at is None or not timedelta(0) <= now - self._dropped_at < _DROP_INTERVAL:
            self._deps.activity.drop_expired(now)
            self._dropped_at = now

    async def _read_all(self, now: datetime) -> None:
        """Read the facts that tokens which are valid now may not know; the newest, if they are too many."""
        deps, devices = self._deps, self._deps.store.devices
        adopt = self._adopter()
        separations = [state.spec.eligibility.min_separation_s for state in self._registry]
        longest_s = max([deps.device_token_ttl_s, *separations])
        since = now - max(timedelta(seconds=longest_s), _LOOKED_BACK)
        changes = await devices.changed_since(since, MAX_DEVICES)
        await _for_each(list(reversed(changes)), adopt)
        for device, until in (await devices.quarantined(now)).items():
            deps.activity.set_quarantine(device, until)
        self._read_at = now

    async def _read_changes(self, since: datetime, now: datetime) -> None:
        adopt = self._adopter()
        changes = await self._deps.store.devices.changed_since(since, MAX_DEVICES)
        await _for_each(changes, adopt)
        damaged: list[UnreadableRow] = []
        assigned = await self._deps.store.assignments.outstanding(since, unreadable=damaged)
        await _for_each(assigned, self._adopt_assignment)
        for row in damaged:
            self._deps.observer.task_stuck(row.task, row.error)
        rows = len(changes) + len(assigned) + len(damaged)
        self._pause = timedelta(0)
        if rows > _MANY_ROWS:
            self._pause = min(timedelta(seconds=rows / _ROWS_PER_S), _LONGEST_PAUSE)
        self._read_at = now

    def _adopter(self) -> Callable[[DeviceFacts], None]:
        """Return what adopts the rows that are read from now on."""
        activity = self._deps.activity
        return functools.partial(activity.adopt, read_after=activity.quarantine_writes)

    def _adopt_assignment(self, found: tuple[TaskName, AssignmentRecord]) -> None:
        task, row = found
        opened = self._registry.open_round(task)
        if opened is not None and opened.may_hold(row) and row.id not in opened.members:
            opened.members[row.id] = row


async def _for_each(rows: Sequence[T], adopt: Callable[[T], None]) -> None:
    """Adopt rows with breaks: tens of thousands at once would stop the event loop for a tenth of a second."""
    for start in range(0, len(rows), _ADOPTED_AT_ONCE):
        for row in rows[start : start + _ADOPTED_AT_ONCE]:
            adopt(row)
        await asyncio.sleep(0)
