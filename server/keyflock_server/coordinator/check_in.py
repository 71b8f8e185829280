"""Check-ins: eligibility, sampling, and a slot for whoever is in the sample."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.aggregation.population_personalisation import first_prior
from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.standings import Standings
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk, weights_of
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    ModelWeights,
    PersonalisingPlan,
    Refusal,
    RefusalReason,
    ReturnWindow,
    TaskKind,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.eligibility import ineligibility
from keyflock_server.rounds.pacing import expected_arrivals, no_task_window, return_window
from keyflock_server.rounds.round import Assigned, Phase, Round, advance
from keyflock_server.rounds.selection import (
    assignment_id,
    assignment_seed,
    is_sampled,
    sampling_probability,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import AssignmentRecord, AssignmentState, DeviceRecord

_COUNT_LIFE: Final = timedelta(seconds=30)
_DAY: Final = timedelta(days=1)
#: ``last_seen_at`` is written at most so often: it only counts the devices of a day.
_SEEN_EVERY: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Count:
    devices: int
    at: datetime


class CheckIns:
    """Gives out work."""

    def __init__(
        self, world: Surroundings, desks: dict[TaskName, Desk], trunk: Trunk, standings: Standings
    ) -> None:
        self._world = world
        self._standings = standings
        self._desks = desks
        self._trunk = trunk
        self._counts: dict[PopulationName, _Count] = {}

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Work for the device, or why there is none.

        Raises:
            Refused: ``token_invalid`` for a device that is not enrolled any more.
        """
        device = await self._seen(identity, message)
        if (kept_out := self._standings.refusal(device)) is not None:
            return kept_out
        desks = [desk for desk in self._desks.values() if desk.spec.population == identity.population]
        if not any(desk.status is TaskStatus.ACTIVE for desk in desks):
            return _no_task(desks)
        active = await self._active_devices(identity.population)
        refusals: list[Refusal] = []
        # First the task that waits for this device: it may not know yet, for the answer may have been lost.
        for desk in sorted(desks, key=lambda one: not _waits_for(one, device)):
            if desk.status is TaskStatus.ACTIVE:
                answer = await self._answer(desk, device, message, active)
                if isinstance(answer, Assignment):
                    return answer
                refusals.append(answer)
        return min(refusals, key=_worth, default=_no_task(desks))

    async def _answer(
        self, desk: Desk, device: DeviceRecord, message: CheckIn, active: int
    ) -> Assignment | Refusal:
        now, spec = self._world.clock(), desk.spec
        window = return_window(spec.round, spec.pacing, active, now.timestamp())
        opened = desk.open
        if opened is not None and (known := opened.members.get(device.id)) is not None:
            if known.state is AssignmentState.ASSIGNED and opened.round.phase is Phase.COLLECTING:
                return await self._assignment(opened, known, device)
            return Refusal(
                reason=RefusalReason.TOO_SOON, return_window=window, detail="This round knows the device."
            )
        codec = spec.codec_spec.codec
        unfit = ineligibility(spec.eligibility, codec, message, device.last_contributed_at, now, spec.kind)
        if unfit is not None:
            later = ReturnWindow(min_s=max(window.min_s, unfit.wait_s), max_s=max(window.max_s, unfit.wait_s))
            return Refusal(reason=unfit.reason, return_window=later, detail=unfit.detail)
        if opened is None:
            detail = "The next round opens soon."
            return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window, detail=detail)
        if opened.round.slots_left == 0:
            return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window)
        probability = sampling_probability(
            spec.round.slots,
            expected_arrivals(spec.round, spec.pacing, active),
            (now - opened.round.opened_at).total_seconds(),
            spec.round.selection_window_s,
        )
        if not is_sampled(self._world.sampling_key, opened.id, device.id, probability):
            return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=window)
        return await self._take_slot(desk, opened, device, window)

    async def _take_slot(
        self, desk: Desk, opened: OpenRound, device: DeviceRecord, window: ReturnWindow
    ) -> Assignment | Refusal:
        world = self._world
        async with desk.lock:
            known = opened.members.get(device.id)
            if known is None:
                if opened.round.slots_left == 0:
                    return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window)
                known = AssignmentRecord(
                    round_id=opened.id,
                    device=device.id,
                    id=assignment_id(world.sampling_key, opened.id, device.id),
                    state=AssignmentState.ASSIGNED,
                    assigned_at=world.clock(),
                )
                record = replace(opened.record, round=advance(opened.round, Assigned(), world.clock()))
                await world.store.rounds.assign(record, known)
                opened.record = record
                opened.members[device.id] = known
        return await self._assignment(opened, known, device)

    async def _assignment(self, opened: OpenRound, row: AssignmentRecord, device: DeviceRecord) -> Assignment:
        """What the device is to do; the same, but for the token's bytes, however often it asks."""
        current, now = opened.round, self._world.clock()
        version = await self._trunk.version(current.population, current.base_version)
        layout = await self._trunk.report_layout(current.spec)
        # A head must fit the trunk that the phone's keyboard serves.
        is_personal = current.spec.kind is TaskKind.PERSONALIZE
        digest = (version.released_digest if is_personal else None) or version.download_digest
        seed = assignment_seed(self._world.sampling_key, current.id, device.id)
        claims = AssignmentClaims(
            assignment=row.id,
            device=device.id,
            population=current.population,
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            codec=current.spec.codec,
            seed=seed,
            layout=layout.digest,
            expires_at=current.deadline_at,
        )
        return Assignment(
            id=row.id,
            token=self._world.tokens.issue(claims),
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            model_digest=digest,
            layout=layout.digest,
            plan=current.spec.training,
            codec=current.spec.codec,
            seed=seed,
            expires_in_s=max(0.0, (current.deadline_at - now).total_seconds()),
            task_kind=current.spec.kind,
            personalising=await self._personalising(current),
            weights=weights_of(version) if is_personal else ModelWeights.TRAINING,
        )

    async def _personalising(self, current: Round) -> PersonalisingPlan | None:
        """Of a ``personalize`` round: the same for all its phones, since only closing it moves the priors."""
        settings = current.spec.personalising
        if current.spec.kind is not TaskKind.PERSONALIZE:
            return None
        known = await self._trunk.personalisation(current.population)
        return PersonalisingPlan(
            head=settings.head_of(current.sequence),
            prior=first_prior() if known is None else known.prior,
            words_needed=settings.words_needed,
        )

    async def _seen(self, identity: DeviceIdentity, message: CheckIn) -> DeviceRecord:
        now = self._world.clock()
        device = await self._world.store.devices.get(identity.device)
        if device is None or device.population != identity.population:
            raise Refused(
                ProblemCode.TOKEN_INVALID, "This device is not enrolled here any more; enrol again."
            )
        is_changed = (device.app_build, device.locale) != (message.app_build, message.locale)
        if is_changed or now - device.last_seen_at >= _SEEN_EVERY:
            await self._world.store.devices.seen(device.id, message.app_build, message.locale, now)
        return device

    async def _active_devices(self, population: PopulationName) -> int:
        now = self._world.clock()
        known = self._counts.get(population)
        if known is None or now - known.at >= _COUNT_LIFE or now < known.at:
            devices = await self._world.store.devices.count_active(population, now - _DAY)
            known = self._counts[population] = _Count(devices, now)
        return known.devices


def _worth(refusal: Refusal) -> tuple[bool, float]:
    """Of several tasks' refusals the phone hears one: of a task that may want it yet, and the soonest."""
    return refusal.reason is RefusalReason.NOT_ELIGIBLE, refusal.return_window.min_s


def _waits_for(desk: Desk, device: DeviceRecord) -> bool:
    known = None if desk.open is None else desk.open.members.get(device.id)
    return known is not None and known.state is AssignmentState.ASSIGNED


def _no_task(desks: list[Desk]) -> Refusal:
    is_paused = any(desk.status is TaskStatus.PAUSED for desk in desks)
    if is_paused:
        low = max(desk.spec.pacing.min_s for desk in desks if desk.status is TaskStatus.PAUSED)
        window = ReturnWindow(min_s=low, max_s=2 * low)
        return Refusal(reason=RefusalReason.PAUSED, return_window=window)
    return Refusal(reason=RefusalReason.NO_ACTIVE_TASK, return_window=no_task_window())
