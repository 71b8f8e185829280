"""Devices come: enrolment, and the refresh of their tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

from keyflock_server.coordinator.desk import Desk
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.tombstones import remains
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import subject_digest, tombstone_digest
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, TaskName, UserDigest
from keyflock_server.protocol.messages import EnrolRequest, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.pacing import SHED_LOAD, first_visit
from keyflock_server.rounds.standing import inherited_standing
from keyflock_server.storage.door import Remains
from keyflock_server.storage.records import DeviceRecord, TombstoneRecord


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """A device that the server knows now."""

    device: DeviceId
    population: PopulationName
    #: Of its newest token.
    generation: int
    return_window: ReturnWindow


class Enrolments:
    """Keeps the register of devices."""

    def __init__(
        self,
        world: Surroundings,
        trunk: Trunk,
        desks: Mapping[TaskName, Desk],
        revocations: TokenRevocations,
    ) -> None:
        self._world = world
        self._trunk = trunk
        self._desks = desks
        self._revocations = revocations

    async def enrol(
        self,
        request: EnrolRequest,
        shown: DeviceIdentity | None,
        *,
        user_proof: str | None = None,
        subject: str | None = None,
    ) -> EnrolledDevice:
        """A new device, or the one whose token is being refreshed.

        Args:
            request: What the phone says.
            shown: Of the token to refresh; None enrols a new device.
            user_proof: What proves the user that the device has now, when it names another.
            subject: What the platform says the installation is.
        Raises:
            Refused: ``population_unknown``; ``user_not_proven``; ``token_invalid`` when the token to refresh
                is void, or its device was forgotten; ``conflict`` when it would change its population;
                ``overloaded`` for a new device while the server is beyond its capacity: those that are
                enrolled come first. Nothing was stored.
        """
        if shown is None and (load := self._world.load()) >= SHED_LOAD:
            window = ReturnWindow(min_s=30.0 * (1.0 + load), max_s=120.0 * (1.0 + load))
            raise Refused(ProblemCode.OVERLOADED, "Too many phones are here at once; enrol later.", window)
        name = PopulationName(request.population)
        await self._trunk.population(name)
        said = self._said(request, name, subject)
        device = await (self._add(said) if shown is None else self._refresh(said, shown, user_proof))
        return EnrolledDevice(device.id, name, device.token_generation, self._first_visit(name))

    def _first_visit(self, name: PopulationName) -> ReturnWindow:
        """An app update enrols a whole population within minutes: it is spread like any other crowd."""
        theirs = [desk.spread_s for desk in self._desks.values() if desk.spec.population == name]
        load = self._world.load()
        return first_visit(min(theirs, default=0.0) * (1.0 + load) + load)

    def _said(self, request: EnrolRequest, name: PopulationName, subject: str | None) -> DeviceRecord:
        """A new device with what this phone says of itself; its user is judged before anything is stored."""
        world, now = self._world, self._world.clock()
        user = None
        if request.user is not None:
            user = world.users.digest(name, world.users.named(request.user, now))
        return DeviceRecord(
            id=DeviceId(world.new_id()),
            population=name,
            user_digest=user,
            app_build=request.app_build,
            locale=request.locale,
            enrolled_at=now,
            last_seen_at=now,
            tier=request.tier,
            tags=tuple(sorted(set(request.tags))),
            subject_digest=None if subject is None else subject_digest(world.owner_key, name, subject),
        )

    async def _add(self, said: DeviceRecord) -> DeviceRecord:
        device = self._burdened(said, await self._inherited(said))
        await self._world.store.devices.add(device)
        return device

    def _burdened(self, device: DeviceRecord, inherited: TombstoneRecord | None) -> DeviceRecord:
        """The device with what must hold of it although it has enrolled anew, or named its user late."""
        if inherited is None:
            return device
        now = self._world.clock()
        own = TombstoneRecord(
            digest=inherited.digest,
            until=now,
            quarantined_until=device.quarantined_until,
            last_contributed_at=device.last_contributed_at,
            participations_json=device.past_participations_json,
        )
        both = own.merged(inherited)
        device = replace(
            device,
            last_contributed_at=both.last_contributed_at,
            past_participations_json=both.participations_json,
        )
        until = both.quarantined_until
        if until is None or until <= now or until == device.quarantined_until:
            return device
        standing_json = inherited_standing(until, now).to_json()
        return replace(device, quarantined_until=until, standing_json=standing_json)

    async def _inherited(self, said: DeviceRecord) -> TombstoneRecord | None:
        """What must hold of a device that was forgotten, or of the same installation's earlier devices."""
        world, now = self._world, self._world.clock()
        proofs = [one for one in (said.user_digest, said.subject_digest) if one is not None]
        digests = [tombstone_digest(world.owner_key, one) for one in proofs]
        found = await world.store.tombstones.among(digests, now) if digests else []
        if said.subject_digest is not None:
            rule = await self._rule()
            for earlier in await world.store.devices.of_subject(said.subject_digest):
                found += rule(earlier, await world.store.rounds.participations_by_task(earlier.id))
        return reduce(TombstoneRecord.merged, found) if found else None

    async def _refresh(
        self, said: DeviceRecord, shown: DeviceIdentity, user_proof: str | None
    ) -> DeviceRecord:
        """The device with a new token generation; the same one for whoever asks again within the grace."""
        devices = self._world.store.devices
        while True:
            known = await devices.get(shown.device)
            if known is None:
                raise void_token()
            if known.population != said.population:
                detail = f"The device is in population {known.population!r}; enrol anew for another one."
                raise Refused(ProblemCode.CONFLICT, detail)
            self._check_rename(known, said.user_digest, user_proof)
            revocation = None
            # A database that was restored from a backup has a lower one than the phone.
            if shown.generation >= known.token_generation:
                revocation = self._revocations.of_refreshed(shown)
            elif shown.generation + 1 != known.token_generation or not (
                await self._revocations.is_in_grace(shown)
            ):
                raise void_token()
            after = replace(
                known,
                app_build=said.app_build,
                locale=said.locale,
                last_seen_at=said.last_seen_at,
                tier=said.tier,
                tags=said.tags,
                user_digest=said.user_digest or known.user_digest,
                subject_digest=known.subject_digest or said.subject_digest,
                token_generation=shown.generation + 1,
            )
            if after.user_digest != known.user_digest:
                after = await self._renamed(known, after)
            if await devices.renew(known, after, revocation):
                if revocation is not None:
                    self._revocations.learn(revocation)
                return after

    async def _renamed(self, known: DeviceRecord, after: DeviceRecord) -> DeviceRecord:
        """The device under another user: what must hold goes with it, and stays with the user that it had."""
        store = self._world.store
        left = (await self._rule())(known, await store.rounds.participations_by_task(known.id))
        await store.tombstones.add(left)
        return self._burdened(after, await self._inherited(replace(after, subject_digest=None)))

    async def _rule(self) -> Remains:
        world = self._world
        return remains(world.owner_key, await world.store.tasks.all([]), world.clock())

    def _check_rename(self, known: DeviceRecord, user: UserDigest | None, user_proof: str | None) -> None:
        """Whoever holds a device's token may name its first user; another one takes what proves the first."""
        now_has = known.user_digest
        if user is None or now_has is None or user == now_has:
            return
        if not self._world.users.is_same(known.population, now_has, user_proof, self._world.clock()):
            raise Refused(
                ProblemCode.USER_NOT_PROVEN,
                "The device has another user: send what proves that one in the header Keyflock-User.",
            )
