"""Devices in SQL."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserId
from keyflock_server.rounds.availability import ActiveDevices
from keyflock_server.rounds.round import FINAL_PHASES
from keyflock_server.storage.door import AlreadyExists
from keyflock_server.storage.records import DeviceRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.tables import assignments, devices, rounds


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

    async def seen(
        self,
        device: DeviceId,
        app_build: int,
        locale: str,
        at: datetime,
        user: UserId | None = None,
        *,
        tier: int | None = None,
        tags: tuple[str, ...] | None = None,
    ) -> bool:
        """The device has checked in, or refreshed its token."""
        said: dict[str, object] = {"user": user, "tier": tier, "tags": tags}
        named = {name: value for name, value in said.items() if value is not None}
        change = (
            update(devices)
            .where(devices.c.id == device)
            .values(last_seen_at=at, app_build=app_build, locale=locale, **named)
        )
        async with self._engine.begin() as connection:
            return (await connection.execute(change)).rowcount > 0

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

    async def of_user(self, population: PopulationName, user: UserId) -> list[DeviceRecord]:
        """All devices that named this user."""
        theirs = (devices.c.population == population) & (devices.c.user == user)
        async with self._reader.connect() as connection:
            rows = (await connection.execute(select(devices).where(theirs))).all()
        return [DeviceRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

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

    async def forget(self, device: DeviceId) -> int:
        """Delete the device, all devices of its user, and their assignments in rounds that are over."""
        async with self._engine.begin() as connection:
            known = await connection.execute(select(devices).where(devices.c.id == device).with_for_update())
            row = known.one_or_none()
            if row is None:
                return 0
            theirs = devices.c.id == device
            if row.user is not None:
                same_user = (devices.c.population == row.population) & (devices.c.user == row.user)
                theirs = or_(theirs, same_user)
            over = select(rounds.c.id).where(rounds.c.phase.in_(FINAL_PHASES))
            await connection.execute(
                delete(assignments).where(
                    assignments.c.device.in_(select(devices.c.id).where(theirs)),
                    assignments.c.round_id.in_(over),
                )
            )
            return (await connection.execute(delete(devices).where(theirs))).rowcount

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(devices).where(*conditions)
        async with self._reader.connect() as connection:
            return (await connection.execute(query)).scalar_one()
