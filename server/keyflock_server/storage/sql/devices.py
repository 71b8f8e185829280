"""Devices in SQL."""

import contextlib
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest
from keyflock_server.rounds.availability import ActiveDevices
from keyflock_server.storage.door import AlreadyExists, Remains
from keyflock_server.storage.records import DeviceRecord, RevocationRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.forgetting import AssignedMeanwhile, forget_devices
from keyflock_server.storage.sql.revocations import write_revocations
from keyflock_server.storage.tables import devices


class SqlDevices:
    """``door.DeviceTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, device: DeviceRecord) -> None:
        """Enrol a new device."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(devices).values(asdict(device)))
        except IntegrityError:
            raise AlreadyExists(device.id) from None

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        """One device."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(devices).where(devices.c.id == device))).one_or_none()
        return None if row is None else DeviceRecord(**row._mapping)  # noqa: SLF001 - the documented name

    async def seen(self, device: DeviceId, app_build: int, locale: str, at: datetime) -> bool:
        """The device has checked in."""
        change = (
            update(devices)
            .where(devices.c.id == device)
            .values(last_seen_at=at, app_build=app_build, locale=locale)
        )
        async with self._engine.begin() as connection:
            return (await connection.execute(change)).rowcount > 0

    async def renew(
        self, before: DeviceRecord, after: DeviceRecord, revocation: RevocationRecord | None
    ) -> bool:
        """Change a device whose tokens change."""
        was, becomes = asdict(before), asdict(after)
        changed = {name: value for name, value in becomes.items() if value != was[name]}
        generation = devices.c.token_generation == before.token_generation
        change = update(devices).where(devices.c.id == before.id, generation)
        async with self._engine.begin() as connection:
            values = {"token_generation": after.token_generation, **changed}
            if (await connection.execute(change.values(values))).rowcount == 0:
                return False
            if revocation is not None:
                await write_revocations(connection, [revocation])
            return True

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        """Count the devices of a population that were seen since then, and since they enrolled."""
        query = select(func.count(devices.c.last_contributed_at), func.count()).where(
            devices.c.population == population,
            devices.c.last_seen_at >= since,
            devices.c.last_seen_at > devices.c.enrolled_at,
        )
        async with self._reader.connect() as connection:
            proven, seen = (await connection.execute(query)).one()
        return ActiveDevices(proven, seen - proven)

    async def count(self, population: PopulationName) -> int:
        """Devices enrolled in a population."""
        return await self._count(devices.c.population == population)

    async def set_has_head(self, device: DeviceId) -> None:
        """Note that the device has stored a personal model."""
        async with self._engine.begin() as connection:
            await connection.execute(update(devices).where(devices.c.id == device).values(has_head=True))

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        """Some devices of a population, by id."""
        query = select(devices).where(devices.c.population == population).order_by(devices.c.id).limit(limit)
        if after is not None:
            query = query.where(devices.c.id > after)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def of_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        """Return all devices of these users, by id."""
        return await self._some(devices.c.user_digest.in_(users))

    async def of_subject(self, subject_digest: str) -> list[DeviceRecord]:
        """Return all devices that are the same attested installation, by id."""
        return await self._some(devices.c.subject_digest == subject_digest)

    async def set_standing(
        self,
        device: DeviceId,
        before: bytes | None,
        standing_json: bytes | None,
        quarantined_until: datetime | None,
    ) -> bool:
        """What is held against the device from now on, if it is still ``before``."""
        is_there = devices.c.standing_json.is_(None) if before is None else devices.c.standing_json == before
        change = (
            update(devices)
            .where(devices.c.id == device, is_there)
            .values(standing_json=standing_json, quarantined_until=quarantined_until)
        )
        async with self._engine.begin() as connection:
            return (await connection.execute(change)).rowcount > 0

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        """The devices that are kept out now, of all populations, and until when."""
        query = select(devices.c.id, devices.c.quarantined_until).where(devices.c.quarantined_until > now)
        async with self._reader.connect() as connection:
            return {DeviceId(device): until for device, until in await connection.execute(query)}

    async def some(self, population: PopulationName, limit: int) -> list[DeviceRecord]:
        """Devices of a population: those ever quarantined first."""
        # Where a missing instant sorts is for each database to say: two queries, so that it does not matter.
        mine = select(devices).where(devices.c.population == population)
        kept_out = mine.where(devices.c.quarantined_until.is_not(None)).order_by(
            devices.c.quarantined_until.desc(), devices.c.id.desc()
        )
        others = mine.where(devices.c.quarantined_until.is_(None)).order_by(
            devices.c.last_seen_at.desc(), devices.c.id.desc()
        )
        async with self._reader.connect() as connection:
            rows = list(await connection.execute(kept_out.limit(limit)))
            rows += list(await connection.execute(others.limit(limit - len(rows))))
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        remains: Remains,
        at: datetime,
    ) -> int:
        """Delete these devices."""
        while True:
            with contextlib.suppress(AssignedMeanwhile):
                async with self._engine.begin() as connection:
                    return await forget_devices(connection, forgotten, revocations, remains, at)

    async def _some(self, condition: ColumnElement[bool]) -> list[DeviceRecord]:
        async with self._reader.connect() as connection:
            rows = (await connection.execute(select(devices).where(condition).order_by(devices.c.id))).all()
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(devices).where(*conditions)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one()
