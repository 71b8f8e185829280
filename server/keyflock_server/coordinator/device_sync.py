"""What other processes have written about devices and their assignments is read once a pass.

The bound: a process knows another one's contributions, silences, quarantines and assignments one pass later,
or at most ``_LONGEST_PAUSE`` later while they are so many that reading them takes part of its time; provided
that the clocks of both differ by less than ``_OVERLAP``. A process that is alone reads at its start only.
"""

from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.device_activity import MAX_DEVICES
from keyflock_server.coordinator.task_registry import TaskRegistry

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
        separations = [state.spec.eligibility.min_separation_s for state in self._registry]
        longest_s = max([deps.device_token_ttl_s, *separations])
        since = now - max(timedelta(seconds=longest_s), _LOOKED_BACK)
        for facts in reversed(await devices.changed_since(since, MAX_DEVICES)):
            deps.activity.adopt(facts)
        for device, until in (await devices.quarantined(now)).items():
            deps.activity.set_quarantine(device, until)
        self._read_at = now

    async def _read_changes(self, since: datetime, now: datetime) -> None:
        changes = await self._deps.store.devices.changed_since(since, MAX_DEVICES)
        for facts in changes:
            self._deps.activity.adopt(facts)
        assigned = await self._deps.store.assignments.outstanding(since)
        for task, row in assigned:
            opened = self._registry.open_round(task)
            if opened is not None and opened.may_hold(row) and row.id not in opened.members:
                opened.members[row.id] = row
        rows = len(changes) + len(assigned)
        self._pause = timedelta(0)
        if rows > _MANY_ROWS:
            self._pause = min(timedelta(seconds=rows / _ROWS_PER_S), _LONGEST_PAUSE)
        self._read_at = now
