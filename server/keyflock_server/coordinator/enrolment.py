"""Devices come and go: enrolment, refresh, and forget-me."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.coordinator.desk import Desk
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, TaskName, UserId
from keyflock_server.protocol.messages import EnrolRequest, Forgotten, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.pacing import SHED_LOAD, first_visit
from keyflock_server.storage.records import DeviceRecord


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """A device that the server knows now."""

    device: DeviceId
    population: PopulationName
    return_window: ReturnWindow


class Enrolments:
    """Keeps the register of devices."""

    def __init__(self, world: Surroundings, trunk: Trunk, desks: Mapping[TaskName, Desk]) -> None:
        self._world = world
        self._trunk = trunk
        self._desks = desks

    async def enrol(self, request: EnrolRequest, device: DeviceId | None) -> EnrolledDevice:
        """A new device, or (``device`` given) the one whose token is being refreshed.

        Raises:
            Refused: ``population_unknown``; ``token_invalid`` when the device to refresh was forgotten;
                ``conflict`` when it would change its population; ``overloaded`` for a new device while the
                server is beyond its capacity: those that are enrolled come first.
        """
        if device is None and (load := self._world.load()) >= SHED_LOAD:
            window = ReturnWindow(min_s=30.0 * (1.0 + load), max_s=120.0 * (1.0 + load))
            raise Refused(ProblemCode.OVERLOADED, "Too many phones are here at once; enrol later.", window)
        name = PopulationName(request.population)
        await self._trunk.population(name)
        if device is None:
            device = await self._add(request, name)
        else:
            await self._refresh(request, name, device)
        return EnrolledDevice(device, name, self._first_visit(name))

    def _first_visit(self, name: PopulationName) -> ReturnWindow:
        """An app update enrols a whole population within minutes: it is spread like any other crowd."""
        theirs = [desk.spread_s for desk in self._desks.values() if desk.spec.population == name]
        load = self._world.load()
        return first_visit(min(theirs, default=0.0) * (1.0 + load) + load)

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
            tier=request.tier,
            tags=_tags(request),
        )
        await self._world.store.devices.add(record)
        return record.id

    async def _refresh(self, request: EnrolRequest, name: PopulationName, device: DeviceId) -> None:
        devices, now = self._world.store.devices, self._world.clock()
        known = await devices.get(device)
        if known is not None and known.population != name:
            detail = f"The device is in population {known.population!r}; enrol anew for another one."
            raise Refused(ProblemCode.CONFLICT, detail)
        is_there = await devices.seen(
            device,
            request.app_build,
            request.locale,
            now,
            _user(request),
            tier=request.tier,
            tags=_tags(request),
        )
        if not is_there:
            raise Refused(ProblemCode.TOKEN_INVALID, "This device is not enrolled here any more; enrol anew.")

    async def forget(self, device: DeviceId) -> Forgotten:
        """Everything about the device and its user is gone; again is no error."""
        return Forgotten(devices=await self._world.store.devices.forget(device))


def _tags(request: EnrolRequest) -> tuple[str, ...]:
    return tuple(sorted(set(request.tags)))


def _user(request: EnrolRequest) -> UserId | None:
    return None if request.user is None else UserId(request.user)
