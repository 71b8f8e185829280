"""The interface to enrolled devices."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, TaskName, UserDigest
from keyflock_server.rounds.availability import ActiveDevices
from keyflock_server.storage.device_facts import DeviceFacts, SeenDevice
from keyflock_server.storage.records import DeviceRecord, RevocationRecord, TombstoneRecord

#: A function that returns a device's tombstones from its row and its counted reports by task.
TombstonesOf = Callable[[DeviceRecord, Mapping[TaskName, int]], Sequence[TombstoneRecord]]


class DeviceRepository(Protocol):
    """Stores enrolled devices.

    Changes by operators take an ``AuditContext``, whose subject is a keyed digest of the device's id.
    """

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        """Return the device of this id, or None."""
        ...

    async def record_seen(self, check_ins: Sequence[SeenDevice]) -> None:
        """Write the check-ins of devices, at most one of each; a forgotten device is not added again.

        A device that another transaction is changing may be left out: nothing waits for it.

        Guarantees:
            A device is seen later than it enrolled, even at the same instant: enrolling does not count.
        """
        ...

    async def changed_since(self, at: datetime, limit: int) -> list[DeviceFacts]:
        """Return the facts that changed at that instant or later, otherwise than by enrolling.

        Args:
            at: The instant.
            limit: The maximum number of devices; the first changes are left out.
        Returns:
            The facts as they are now, the last change first.
        """
        ...

    async def renew(
        self,
        before: DeviceRecord,
        after: DeviceRecord,
        revocation: RevocationRecord | None,
        *,
        audit: AuditContext | None = None,
    ) -> bool:
        """Change a device whose tokens change: the columns that differ between ``before`` and ``after``.

        Args:
            before: The device as it was read.
            after: The device as it is to be written.
            revocation: The revocation of its earlier tokens, written in the same transaction, or None.
            audit: The operator who revokes them, and why; None for what a device does itself.
        Returns:
            Whether it was written: False if the token generation has changed, or the device was deleted.
        """
        ...

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        """Count a population's devices that checked in since then, and after their enrolment."""
        ...

    async def count(self, population: PopulationName) -> int:
        """Count the devices that are enrolled in a population."""
        ...

    async def set_has_head(self, device: DeviceId) -> None:
        """Write that the device has stored a personal model; nothing happens if it is not enrolled."""
        ...

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        """Return a page of a population's devices, ordered by id, that begins behind ``after``."""
        ...

    async def list_by_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        """Return all devices of these users, ordered by id."""
        ...

    async def list_by_subject(self, subject_digest: str) -> list[DeviceRecord]:
        """Return all devices with the same attested installation, ordered by id."""
        ...

    async def set_quarantine(
        self,
        device: DeviceId,
        before: bytes | None,
        standing_json: bytes | None,
        quarantined_until: datetime | None,
        at: datetime,
        *,
        audit: AuditContext | None = None,
    ) -> bool:
        """Write the device's violations and the end of its quarantine.

        Args:
            device: The device.
            before: The ``standing_json`` that the new value was computed from.
            standing_json: The new value.
            quarantined_until: The end of the quarantine.
            at: The time of the change.
            audit: The operator who changes it, and why; None for violations.
        Returns:
            Whether it was written: False if the stored value is not ``before``, or there is no such device.
        """
        ...

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        """Return the quarantined devices of all populations, with the end of each quarantine."""
        ...

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        tombstones_of: TombstonesOf,
        at: datetime,
        *,
        audit: AuditContext | None = None,
    ) -> int:
        """Delete these devices: none of their reports is counted in any round after this returns.

        Their open assignments in rounds that are not over fail, which frees the slots; their assignments in
        rounds that are over are deleted.

        Args:
            forgotten: The devices to delete.
            revocations: The revocations of their tokens.
            tombstones_of: Returns the tombstones of a device. They are written with its deletion, and merged
                with stored ones of the same digests.
            at: The time of the deletion.
            audit: The operator who forgets the one device, and why; None for what phones ask for.
        Returns:
            The number of deleted devices.
        """
        ...
