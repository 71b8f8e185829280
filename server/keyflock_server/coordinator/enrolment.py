"""Devices come and go: enrolment, refresh, and forget-me."""

from dataclasses import dataclass

from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserId
from keyflock_server.protocol.messages import EnrolRequest, Forgotten, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.records import DeviceRecord


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """A device that the server knows now."""

    device: DeviceId
    population: PopulationName
    return_window: ReturnWindow


class Enrolments:
    """Keeps the register of devices."""

    def __init__(self, world: Surroundings, trunk: Trunk) -> None:
        self._world = world
        self._trunk = trunk

    async def enrol(self, request: EnrolRequest, device: DeviceId | None) -> EnrolledDevice:
        """A new device, or (``device`` given) the one whose token is being refreshed.

        Raises:
            Refused: ``population_unknown``; ``token_invalid`` when the device to refresh was forgotten;
                ``conflict`` when it would change its population.
        """
        name = PopulationName(request.population)
        await self._trunk.population(name)
        if device is None:
            device = await self._add(request, name)
        else:
            await self._refresh(request, name, device)
        return EnrolledDevice(device, name, ReturnWindow(min_s=0.0, max_s=1.0))

    async def _add(self, request: EnrolRequest, name: PopulationName) -> DeviceId:
        now = self._world.clock()
        record = DeviceRecord(
            id=DeviceId(self._world.new_id()),
            population=name,
            user=_user(request),
            app_build=request.app_build,
            locale=request.locale,
            enrolled_at=now,
            last_seen_at=now,
            last_contributed_at=None,
        )
        await self._world.store.devices.add(record)
        return record.id

    async def _refresh(self, request: EnrolRequest, name: PopulationName, device: DeviceId) -> None:
        devices, now = self._world.store.devices, self._world.clock()
        known = await devices.get(device)
        if known is not None and known.population != name:
            detail = f"The device is in population {known.population!r}; enrol anew for another one."
            raise Refused(ProblemCode.CONFLICT, detail)
        if not await devices.seen(device, request.app_build, request.locale, now, _user(request)):
            raise Refused(ProblemCode.TOKEN_INVALID, "This device is not enrolled here any more; enrol anew.")

    async def forget(self, device: DeviceId) -> Forgotten:
        """Everything about the device and its user is gone; again is no error."""
        return Forgotten(devices=await self._world.store.devices.forget(device))


def _user(request: EnrolRequest) -> UserId | None:
    return None if request.user is None else UserId(request.user)
