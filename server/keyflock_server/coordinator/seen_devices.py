"""Devices that checked in are written in bulk, once a pass: ``last_seen_at``, app build and locale.

A device is written at most once in ten minutes, unless its app or locale has changed: the instant only serves
to count the devices of a day, and to delete those that do not come back. So it is a whole second, which the
devices of a pass share. A killed process loses those of its last pass, which come again.
"""

from datetime import datetime
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.recent_entries import RecentEntries
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import CheckIn
from keyflock_server.storage.device_facts import SeenDevice

#: A device is written at most once in this interval.
_INTERVAL_S: Final = 600.0
#: Number of devices that are remembered as written; beyond it some are written again too early.
_MAX_REMEMBERED: Final = 131_072
#: Maximum number of devices that wait to be written, should the store not answer; others are dropped.
_MAX_UNWRITTEN: Final = 65_536


class SeenDevices:
    """Collects the devices that checked in, and writes them."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        #: When devices were noted, in seconds since the epoch, by device, app build and locale.
        self._noted_at_s: RecentEntries[float] = RecentEntries(_MAX_REMEMBERED)
        self._unwritten: dict[DeviceId, SeenDevice] = {}

    def note(self, device: DeviceId, message: CheckIn, now: datetime, now_s: float) -> None:
        """Note a check-in, if the device was not noted lately.

        Args:
            device: The device.
            message: Its check-in.
            now: The instant.
            now_s: The same in seconds since the epoch.
        """
        key = (device, message.app_build, message.locale)
        noted_at_s = self._noted_at_s.get(key)
        if noted_at_s is not None and 0.0 <= now_s - noted_at_s < _INTERVAL_S:
            return
        if len(self._unwritten) < _MAX_UNWRITTEN:
            self._noted_at_s.put(key, now_s)
            self._unwritten[device] = SeenDevice(
                device=device,
                app_build=message.app_build,
                locale=message.locale,
                at=now.replace(microsecond=0),
            )

    async def write(self) -> None:
        """Write what was noted; an error loses nothing, and the next pass tries again."""
        seen, self._unwritten = self._unwritten, {}
        if not seen:
            return
        try:
            await self._deps.store.devices.record_seen(list(seen.values()))
        except BaseException:
            self._unwritten = seen | self._unwritten
            raise
