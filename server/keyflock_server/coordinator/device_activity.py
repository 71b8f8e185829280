"""What has become of devices since their tokens were issued, in memory, so that a check-in asks no database.

A device token says what the device was when it was issued: its tier, its tags, its last contribution. This
module knows what came after: contributions, silences and quarantines. This process's own are here as soon as
they are committed; other processes' are read at every pass (``device_sync``). Devices that were forgotten
have no valid token (``identity.revocations``).

Nothing here is the last word: the transaction that gives a device a slot checks its row (``storage.slots``).
So what memory does not hold, because it is bounded or a pass old, costs at most a transaction.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.coordinator.recent_entries import RecentEntries
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.storage.device_facts import DeviceFacts

#: Number of devices of which the newest contribution is remembered at least, and the newest silence.
MAX_DEVICES: Final = 131_072


@dataclass(frozen=True, slots=True)
class Silences:
    """A device's consecutive silences."""

    count: int
    #: The end of the last assignment that stayed silent; None if that is unknown.
    last_at: datetime | None


class DeviceActivity:
    """Knows the devices whose facts have changed since their tokens were issued.

    Args:
        max_devices: Number of devices of which each fact is remembered; quarantines are remembered all.
    """

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._contributed_at: RecentEntries[datetime] = RecentEntries(max_devices)
        self._silences: RecentEntries[Silences] = RecentEntries(max_devices)
        self._quarantined_until: dict[DeviceId, datetime] = {}
        #: Number of quarantines that this process has set or ended; ``adopt`` says what it is for.
        self.quarantine_writes = 0
        self._written: RecentEntries[int] = RecentEntries(max_devices)
        #: Numbers of counted reports of devices that may not take part in a task again.
        self._participations: RecentEntries[int] = RecentEntries(max_devices)

    def adopt(self, facts: DeviceFacts, read_after: int) -> None:
        """Adopt the facts in a device's row.

        Args:
            facts: The facts.
            read_after: ``quarantine_writes`` as it was before the row was read.
        Edge cases:
            this process has set or ended the device's quarantine since -> it stays, for the row may be older
        """
        if (self._written.get(facts.device) or 0) <= read_after:
            self._keep_quarantine(facts.device, facts.quarantined_until)
        self.adopt_history(facts)

    def adopt_history(self, facts: DeviceFacts) -> None:
        """Adopt a row's facts but its quarantine, which may have begun or ended since the row was read.

        Edge cases:
            the row was read before a contribution that is known here -> nothing is adopted
        """
        known, read = self._contributed_at.get(facts.device), facts.last_contributed_at
        if known is not None and (read is None or read < known):
            return
        if read is not None and read != known:
            self._contributed_at.put(facts.device, read)
        if facts.silences:
            self._silences.put(facts.device, Silences(facts.silences, facts.last_silent_at))
        else:
            self._silences.pop(facts.device)

    def contributed(self, devices: Iterable[DeviceId], at: datetime) -> None:
        """Record that reports of these devices were counted."""
        for device in devices:
            self._contributed_at.put(device, at)
            self._silences.pop(device)

    def fell_silent(self, device: DeviceId, at: datetime) -> None:
        """Record that an assignment of the device ended without a message from it."""
        known = self._silences.get(device)
        self._silences.put(device, Silences(1 if known is None else known.count + 1, at))

    def set_quarantine(self, device: DeviceId, until: datetime | None) -> None:
        """Record what this process has written: the end of the device's quarantine; None: it has none."""
        self.quarantine_writes += 1
        self._written.put(device, self.quarantine_writes)
        self._keep_quarantine(device, until)

    def _keep_quarantine(self, device: DeviceId, until: datetime | None) -> None:
        if until is None:
            self._quarantined_until.pop(device, None)
        else:
            self._quarantined_until[device] = until

    def exhausted(self, task: TaskName, device: DeviceId, participations: int) -> None:
        """Record that the device has taken part in a task as often as it may, or oftener."""
        self._participations.put((task, device), participations)

    def last_contribution(self, device: DeviceId, known: datetime | None) -> datetime | None:
        """Return when a report of the device was last counted; ``known`` is what its token says."""
        newer = self._contributed_at.get(device)
        return newer if known is None or (newer is not None and newer > known) else known

    def quarantined_until(self, device: DeviceId, now: datetime) -> datetime | None:
        """Return when the device's quarantine ends; None if it is not quarantined now."""
        until = self._quarantined_until.get(device)
        return until if until is not None and until > now else None

    def silences(self, device: DeviceId) -> Silences | None:
        """Return the device's consecutive silences; None if none is known."""
        return self._silences.get(device)

    def participations(self, task: TaskName, device: DeviceId) -> int | None:
        """Return how often the device took part in the task, if that is as often as it may; else None."""
        return self._participations.get((task, device))

    def drop_expired(self, now: datetime) -> None:
        """Drop the quarantines that are over."""
        over = [device for device, until in self._quarantined_until.items() if until <= now]
        for device in over:
            del self._quarantined_until[device]
