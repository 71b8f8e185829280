"""Devices in SQL."""

import contextlib
import functools
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest
from keyflock_server.rounds.availability import ActiveDevices
from keyflock_server.storage.device_facts import DeviceFacts, SeenDevice
from keyflock_server.storage.interfaces.devices import TombstonesOf
from keyflock_server.storage.records import DeviceRecord, RevocationRecord
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.forgetting import AssignedMeanwhile, device_document_of, forget_devices
from keyflock_server.storage.sql.revocations import write_revocations
from keyflock_server.storage.sql.rows import read_in_pages
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import devices

#: Devices that one transaction marks as seen: others may write in between.
_SEEN_AT_ONCE: Final = 1_000
#: The smallest time step that the store can distinguish from the instant of enrolment.
_MIN_TIME_STEP: Final = timedelta(microseconds=1)
#: The columns of ``device_facts``.
FACTS: Final[tuple[Column[Any], ...]] = (
    devices.c.id,
    devices.c.last_contributed_at,
    devices.c.quarantined_until,
    devices.c.silences,
    devices.c.last_silent_at,
)


class SqlDeviceRepository:
    """Implements ``DeviceRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        """Return the device of this id, or None."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(devices).where(devices.c.id == device))).one_or_none()
        return None if row is None else DeviceRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def record_seen(self, check_ins: Sequence[SeenDevice]) -> None:
        """Write the check-ins of devices."""
        for start in range(0, len(check_ins), _SEEN_AT_ONCE):
            await self._transactions.run(_mark_seen, check_ins[start : start + _SEEN_AT_ONCE])

    async def changed_since(self, at: datetime, limit: int) -> list[DeviceFacts]:
        """Return the facts that changed at that instant or later."""
        query = (
            select(*FACTS)
            .where(devices.c.changed_at >= at)
            .order_by(devices.c.changed_at.desc())
            .limit(limit)
        )
        return await read_in_pages(self._reader, query, functools.partial(map, device_facts))

    async def renew(
        self,
        before: DeviceRecord,
        after: DeviceRecord,
        revocation: RevocationRecord | None,
        *,
        audit: AuditContext | None = None,
    ) -> bool:
        """Change a device whose tokens change."""
        was, becomes = asdict(before), asdict(after)
        changed = {name: value for name, value in becomes.items() if value != was[name]}
        generation = devices.c.token_generation == before.token_generation
        change = update(devices).where(devices.c.id == before.id, generation)

        def transaction(connection: Connection) -> bool:
            values = {"token_generation": after.token_generation, **changed}
            with audited(connection, audit, SubjectKind.DEVICE, before.id, device_document_of):
                if connection.execute(change.values(values)).rowcount == 0:
                    return False
                if revocation is not None:
                    write_revocations(connection, [revocation])
                return True

        return await self._transactions.run(transaction)

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        """Count a population's devices that checked in since then, and after their enrolment."""
        query = select(func.count(devices.c.last_contributed_at), func.count()).where(
            devices.c.population == population,
            devices.c.last_seen_at >= since,
            devices.c.last_seen_at > devices.c.enrolled_at,
        )
        async with self._reader.connect() as connection:
            proven, seen = (await connection.execute(query)).one()
        return ActiveDevices(proven, seen - proven)

    async def count(self, population: PopulationName) -> int:
        """Count the devices that are enrolled in a population."""
        return await self._count(devices.c.population == population)

    async def set_has_head(self, device: DeviceId) -> None:
        """Write that the device has stored a personal model."""
        await self._transactions.run(
            rows_changed, update(devices).where(devices.c.id == device).values(has_head=True)
        )

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        """Return a page of a population's devices, ordered by id."""
        query = select(devices).where(devices.c.population == population).order_by(devices.c.id).limit(limit)
        if after is not None:
            query = query.where(devices.c.id > after)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def list_by_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        """Return all devices of these users, ordered by id."""
        return await self._list_where(devices.c.user_digest.in_(users))

    async def list_by_subject(self, subject_digest: str) -> list[DeviceRecord]:
        """Return all devices with the same attested installation, ordered by id."""
        return await self._list_where(devices.c.subject_digest == subject_digest)

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
        """Write the device's violations and the end of its quarantine, if the stored value is ``before``."""
        is_there = devices.c.standing_json.is_(None) if before is None else devices.c.standing_json == before
        change = (
            update(devices)
            .where(devices.c.id == device, is_there)
            .values(standing_json=standing_json, quarantined_until=quarantined_until, changed_at=at)
        )

        def transaction(connection: Connection) -> bool:
            with audited(connection, audit, SubjectKind.DEVICE, device, device_document_of):
                return connection.execute(change).rowcount > 0

        return await self._transactions.run(transaction)

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        """Return the quarantined devices of all populations, with the end of each quarantine."""
        query = select(devices.c.id, devices.c.quarantined_until).where(devices.c.quarantined_until > now)
        async with self._reader.connect() as connection:
            return {DeviceId(device): until for device, until in await connection.execute(query)}

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        tombstones_of: TombstonesOf,
        at: datetime,
        *,
        audit: AuditContext | None = None,
    ) -> int:
        """Delete these devices."""
        while True:
            with contextlib.suppress(AssignedMeanwhile):
                return await self._transactions.run(
                    forget_devices, forgotten, revocations, tombstones_of, at, audit
                )

    async def _list_where(self, condition: ColumnElement[bool]) -> list[DeviceRecord]:
        async with self._reader.connect() as connection:
            rows = (await connection.execute(select(devices).where(condition).order_by(devices.c.id))).all()
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(devices).where(*conditions)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one()


def _mark_seen(connection: Connection, check_ins: Sequence[SeenDevice]) -> None:
    """Write the check-ins of those devices that no other transaction holds."""
    enrolled_at = _lock_free(connection, [one.device for one in check_ins])
    alike: dict[tuple[datetime, int, str], list[DeviceId]] = {}
    for one in check_ins:
        if one.device in enrolled_at:
            seen_at = max(one.at, enrolled_at[one.device] + _MIN_TIME_STEP)
            alike.setdefault((seen_at, one.app_build, one.locale), []).append(one.device)
    # Phones of one second differ in build and language only: a statement for each phone would take longer.
    for (seen_at, app_build, locale), ids in alike.items():
        change = update(devices).where(devices.c.id.in_(ids))
        connection.execute(change.values(last_seen_at=seen_at, app_build=app_build, locale=locale))


def _lock_free(connection: Connection, ids: Sequence[DeviceId]) -> dict[DeviceId, datetime]:
    """Lock those of the devices that no other transaction holds, and return when they enrolled.

    One that is held, by a flush or while its device is forgotten, would hold up all others.
    """
    query = select(devices.c.id, devices.c.enrolled_at).where(devices.c.id.in_(ids))
    found = connection.execute(query.with_for_update(skip_locked=True, key_share=True))
    return {DeviceId(device): at for device, at in found}


def device_facts(row: Sequence[Any]) -> DeviceFacts:
    """Return the facts in a row of the columns ``FACTS``."""
    device, last_contributed_at, quarantined_until, silences, last_silent_at = row
    return DeviceFacts(
        device=DeviceId(device),
        last_contributed_at=last_contributed_at,
        quarantined_until=quarantined_until,
        silences=silences,
        last_silent_at=last_silent_at,
    )
