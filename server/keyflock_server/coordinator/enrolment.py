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
        now = self._world.clock()
        known = None if device is None else await self._world.store.devices.get(device)
        if device is not None and known is None:
            raise Refused(ProblemCode.TOKEN_INVALID, "This device is not enrolled here any more; enrol anew.")
        if known is not None and known.population != name:
            detail = f"The device is in population {known.population!r}; enrol anew for another one."
            raise Refused(ProblemCode.CONFLICT, detail)
        record = DeviceRecord(
            id=known.id if known else DeviceId(self._world.new_id()),
            population=name,
            user=UserId(request.user) if request.user is not None else (known.user if known else None),
            app_build=request.app_build,
            locale=request.locale,
            enrolled_at=known.enrolled_at if known else now,
            last_seen_at=now,
            last_contributed_at=known.last_contributed_at if known else None,
        )
        await self._world.store.devices.put(record)
        return EnrolledDevice(record.id, name, ReturnWindow(min_s=0.0, max_s=1.0))

    async def forget(self, device: DeviceId) -> Forgotten:
        """Everything about the device and its user is gone; again is no error."""
        return Forgotten(devices=await self._world.store.devices.forget(device))
