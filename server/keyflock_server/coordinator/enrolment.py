"""Enrolment adds devices and refreshes their tokens."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore, population_unknown
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.tombstones import tombstone_rule
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import subject_digest, tombstone_digest
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest
from keyflock_server.protocol.messages import EnrolRequest, ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.pacing import SHED_LOAD, first_visit
from keyflock_server.rounds.quarantine import inherited_quarantine
from keyflock_server.storage.errors import PopulationGone
from keyflock_server.storage.interfaces.devices import TombstonesOf
from keyflock_server.storage.interfaces.group_writer import AddDevice
from keyflock_server.storage.records import DeviceRecord, TombstoneRecord


@dataclass(frozen=True, slots=True)
class EnrolmentResult:
    """An enrolled device, as the answer to its request needs it."""

    device: DeviceId
    population: PopulationName
    #: Generation of its newest token.
    generation: int
    return_window: ReturnWindow
    #: What its token says of the device, see ``DeviceIdentity``.
    tier: int = 0
    tags: tuple[str, ...] = ()
    last_contributed_at: datetime | None = None


class EnrolmentService:
    """Enrols devices and refreshes their tokens."""

    def __init__(
        self,
        deps: Dependencies,
        models: ModelStore,
        registry: TaskRegistry,
        revocations: TokenRevocations,
    ) -> None:
        self._deps = deps
        self._models = models
        self._registry = registry
        self._revocations = revocations

    async def enrol(
        self,
        request: EnrolRequest,
        shown: DeviceIdentity | None,
        *,
        user_proof: str | None = None,
        subject: str | None = None,
    ) -> EnrolmentResult:
        """Enrol a new device, or refresh the token of a known one.

        Args:
            request: The phone's request.
            shown: The identity in the token to refresh; None enrols a new device.
            user_proof: Proof of the user that the device has now, needed when it names another.
            subject: The installation's identity as the platform attests it.
        Raises:
            ApiError: ``population_unknown``, also for a new device of an archived one; ``user_not_proven``;
                ``token_invalid`` when the token to refresh is void, or its device was forgotten;
                ``conflict`` when it would change its population; ``overloaded`` for a new device while the
                server is beyond its capacity: those that are enrolled come first. Nothing was stored.
        """
        if shown is None and (load := self._deps.load()) >= SHED_LOAD:
            window = ReturnWindow(min_s=30.0 * (1.0 + load), max_s=120.0 * (1.0 + load))
            raise ApiError(ProblemCode.OVERLOADED, "Too many phones are here at once; enrol later.", window)
        name = await self._models.resolve_for_phone(request.population)
        if shown is None and await self._models.is_archived(name):
            raise ApiError(ProblemCode.POPULATION_UNKNOWN, "This population takes no new devices any more.")
        requested = self._device_from_request(request, name, subject)
        device = await (
            self._add(requested) if shown is None else self._refresh(requested, shown, user_proof)
        )
        return EnrolmentResult(
            device.id,
            name,
            device.token_generation,
            self._first_window(name),
            tier=device.tier,
            tags=device.tags,
            last_contributed_at=device.last_contributed_at,
        )

    def _first_window(self, name: PopulationName) -> ReturnWindow:
        """Return the first window: a population that enrols within minutes is spread like any crowd."""
        theirs = [state.spread_s for state in self._registry.in_population(name)]
        load = self._deps.load()
        return first_visit(min(theirs, default=0.0) * (1.0 + load) + load)

    def _device_from_request(
        self, request: EnrolRequest, name: PopulationName, subject: str | None
    ) -> DeviceRecord:
        """Return a new device as the phone describes it; its user is verified before anything is stored."""
        deps, now = self._deps, self._deps.clock()
        user = None
        if request.user is not None:
            user = deps.users.digest(name, deps.users.authenticate(request.user, now))
        return DeviceRecord(
            id=DeviceId(deps.new_id()),
            population=name,
            user_digest=user,
            app_build=request.app_build,
            locale=request.locale,
            enrolled_at=now,
            last_seen_at=now,
            tier=request.tier,
            tags=tuple(sorted(set(request.tags))),
            subject_digest=None if subject is None else subject_digest(deps.owner_key, name, subject),
        )

    async def _add(self, requested: DeviceRecord) -> DeviceRecord:
        device = self._with_inherited_limits(requested, await self._find_inherited_limits(requested))
        writes = self._deps.activity.quarantine_writes
        try:
            await self._deps.writes.submit(AddDevice(device))
        except PopulationGone:
            self._models.forget_rows()  # its name may be another population's by now
            raise population_unknown() from None
        self._deps.activity.adopt(device.facts, writes)
        return device

    def _with_inherited_limits(self, device: DeviceRecord, inherited: TombstoneRecord | None) -> DeviceRecord:
        """Return the device with the inherited limits that still hold."""
        if inherited is None:
            return device
        now = self._deps.clock()
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
            changed_at=now,
        )
        until = both.quarantined_until
        if until is None or until <= now or until == device.quarantined_until:
            return device
        standing_json = inherited_quarantine(until, now).to_json()
        return replace(device, quarantined_until=until, standing_json=standing_json)

    async def _find_inherited_limits(self, requested: DeviceRecord) -> TombstoneRecord | None:
        """Return the limits of a forgotten device, or of the same installation's earlier devices."""
        deps, now = self._deps, self._deps.clock()
        proofs = [one for one in (requested.user_digest, requested.subject_digest) if one is not None]
        digests = [tombstone_digest(deps.owner_key, one) for one in proofs]
        found = await deps.store.tombstones.among(digests, now) if digests else []
        if requested.subject_digest is not None:
            rule = await self._tombstone_rule()
            for earlier in await deps.store.devices.list_by_subject(requested.subject_digest):
                found += rule(earlier, await deps.store.assignments.participations_by_task(earlier.id))
        return reduce(TombstoneRecord.merged, found) if found else None

    async def _refresh(
        self, requested: DeviceRecord, shown: DeviceIdentity, user_proof: str | None
    ) -> DeviceRecord:
        """Return the device with a new token generation; a repetition within the grace gets the same one."""
        devices = self._deps.store.devices
        while True:
            known = await devices.get(shown.device)
            if known is None:
                raise void_token()
            if known.population != requested.population:
                detail = f"The device is in population {known.population!r}; enrol anew for another one."
                raise ApiError(ProblemCode.CONFLICT, detail)
            self._check_rename(known, requested.user_digest, user_proof)
            revocation = None
            # A database restored from a backup has a lower generation than the phone.
            if shown.generation >= known.token_generation:
                revocation = self._revocations.revocation_of_refreshed(shown)
            elif shown.generation + 1 != known.token_generation or not (
                await self._revocations.is_in_grace(shown)
            ):
                raise void_token()
            after = replace(
                known,
                app_build=requested.app_build,
                locale=requested.locale,
                last_seen_at=requested.last_seen_at,
                tier=requested.tier,
                tags=requested.tags,
                user_digest=requested.user_digest or known.user_digest,
                subject_digest=known.subject_digest or requested.subject_digest,
                token_generation=shown.generation + 1,
            )
            if after.user_digest != known.user_digest:
                after = await self._change_user(known, after)
            if await devices.renew(known, after, revocation):
                if revocation is not None:
                    self._revocations.apply(revocation)
                self._deps.activity.adopt_history(after.facts)
                if after.quarantined_until != known.quarantined_until:  # inherited with the user
                    self._deps.activity.set_quarantine(after.id, after.quarantined_until)
                return after

    async def _change_user(self, known: DeviceRecord, after: DeviceRecord) -> DeviceRecord:
        """Give the device another user: its limits go with it, and stay with its former user too."""
        store = self._deps.store
        left = (await self._tombstone_rule())(known, await store.assignments.participations_by_task(known.id))
        await store.tombstones.add(left)
        return self._with_inherited_limits(
            after, await self._find_inherited_limits(replace(after, subject_digest=None))
        )

    async def _tombstone_rule(self) -> TombstonesOf:
        deps = self._deps
        return tombstone_rule(deps.owner_key, await deps.store.tasks.all([]), deps.clock())

    def _check_rename(self, known: DeviceRecord, user: UserDigest | None, user_proof: str | None) -> None:
        """Let a device's token name its first user; changing the user takes the proof of the first."""
        now_has = known.user_digest
        if user is None or now_has is None or user == now_has:
            return
        if not self._deps.users.is_same(known.population, now_has, user_proof, self._deps.clock()):
            raise ApiError(
                ProblemCode.USER_NOT_PROVEN,
                "The device has another user: send what proves that one in the header Keyflock-User.",
            )
