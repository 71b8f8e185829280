"""Check-ins: eligibility, sampling, and a slot for whoever is in the sample."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from keyflock_server.aggregation.population_personalisation import first_prior
from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.pace import Pace
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    DeviceRules,
    PersonalisingPlan,
    Refusal,
    RefusalReason,
    ReturnWindow,
    TaskKind,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.eligibility import Ineligible, has_taken_part_enough, ineligibility, rules_asked
from keyflock_server.rounds.pacing import SHED_LOAD, no_task_window
from keyflock_server.rounds.round import Assigned, Phase, Round, advance
from keyflock_server.rounds.selection import (
    assignment_id,
    assignment_seed,
    is_sampled,
    round_id,
    sampling_probability,
    task_order,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import AssignmentRecord, AssignmentState, DeviceRecord

#: ``last_seen_at`` is written at most so often: it only counts the devices of a day.
_SEEN_EVERY: Final = timedelta(minutes=10)


class CheckIns:
    """Gives out work."""

    def __init__(self, world: Surroundings, desks: dict[TaskName, Desk], trunk: Trunk) -> None:
        self._world = world
        self._desks = desks
        self._trunk = trunk
        self._pace = Pace(world)

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Work for the device, or why there is none.

        Raises:
            Refused: ``token_invalid`` for a device that is not enrolled any more.
        """
        desks = [desk for desk in self._desks.values() if desk.spec.population == identity.population]
        load = self._world.load()
        if load >= SHED_LOAD:
            return _shed(desks, load)
        device = await self._seen(identity, message)
        active = {desk.task: desk for desk in desks if desk.status is TaskStatus.ACTIVE}
        if not active:
            return _no_task(desks)
        refusals: list[Refusal] = []
        for desk in self._in_turn(active, device):
            await self._pace.look(desk)
            answer = await self._answer(desk, device, message)
            if isinstance(answer, Assignment):
                return answer
            refusals.append(answer)
        return min(refusals, key=_worth, default=_no_task(desks))

    def _in_turn(self, active: dict[TaskName, Desk], device: DeviceRecord) -> list[Desk]:
        """The task that waits for this device, whose answer may have been lost; then by traffic."""
        traffic = {task: desk.spec.task.traffic for task, desk in active.items()}
        order = task_order(self._world.sampling_key, device.id, traffic, self._world.clock().timestamp())
        return sorted((active[task] for task in order), key=lambda desk: not _waits_for(desk, device))

    async def _answer(self, desk: Desk, device: DeviceRecord, message: CheckIn) -> Assignment | Refusal:
        opened, pace = desk.open, self._pace
        known = None if opened is None else opened.members.get(device.id)
        if opened is not None and known is not None:
            if known.state is AssignmentState.ASSIGNED and opened.round.phase is Phase.COLLECTING:
                return await self._assignment(opened, known, device)
            return Refusal(
                reason=RefusalReason.TOO_SOON,
                return_window=self._window_after(desk, device),
                detail="This round knows the device.",
            )
        unfit = await self._ineligible(desk, device, message)
        pace.arrived(desk, is_eligible=unfit is None)
        window = pace.window(desk)
        if unfit is not None:
            later = ReturnWindow(min_s=max(window.min_s, unfit.wait_s), max_s=max(window.max_s, unfit.wait_s))
            return Refusal(reason=unfit.reason, return_window=later, detail=unfit.detail)
        if opened is None or opened.round.slots_left == 0:
            detail = "The next round opens soon." if opened is None else ""
            return Refusal(
                reason=RefusalReason.ROUND_FULL, return_window=self._window_after(desk, device), detail=detail
            )
        policy = opened.round.spec.round
        probability = sampling_probability(
            policy.slots,
            pace.expected(desk, opened),
            (self._world.clock() - opened.round.opened_at).total_seconds(),
            policy.selection_window_s,
        )
        if not is_sampled(self._world.sampling_key, opened.id, device.id, probability):
            return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=window)
        return await self._take_slot(desk, opened, device, window)

    async def _ineligible(self, desk: Desk, device: DeviceRecord, message: CheckIn) -> Ineligible | None:
        spec, rules = desk.spec, desk.spec.eligibility
        unfit = ineligibility(
            rules,
            spec.codec_spec.codec,
            message,
            device.last_contributed_at,
            self._world.clock(),
            spec.kind,
            tier=device.tier,
            tags=device.tags,
        )
        if unfit is not None or rules.max_participations is None:
            return unfit
        return has_taken_part_enough(
            rules, await self._world.store.rounds.participations(spec.name, device.id)
        )

    def _window_after(self, desk: Desk, device: DeviceRecord) -> ReturnWindow:
        """While a round only waits for reports: whoever is in the next one's sample comes as it opens."""
        opened = desk.open
        sequence = desk.rounds_opened if opened is None else opened.round.sequence
        slots = (desk.spec if opened is None else opened.round.spec).round.slots
        probability = sampling_probability(slots, self._pace.expected_next(desk), 0.0, 1.0)
        if is_sampled(self._world.sampling_key, round_id(desk.task, sequence + 1), device.id, probability):
            return self._pace.next_round_window(desk)
        return self._pace.window(desk)

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
            model_digest=version.download_digest,
            layout=layout.digest,
            plan=current.spec.training,
            codec=current.spec.codec,
            seed=seed,
            expires_in_s=max(0.0, (current.deadline_at - now).total_seconds()),
            task_kind=current.spec.kind,
            personalising=await self._personalising(current),
            device_rules=_device_rules(current),
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


def _device_rules(current: Round) -> DeviceRules | None:
    rules = current.spec.eligibility.device
    return rules if rules_asked(rules) else None


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


def _shed(desks: list[Desk], load: float) -> Refusal:
    """Answered from memory: a server beyond its capacity looks nothing up for a phone that can come later."""
    low = max((desk.spec.pacing.min_s for desk in desks), default=60.0) * (1.0 + load)
    high = max((desk.spread_s for desk in desks), default=0.0)
    window = ReturnWindow(min_s=low, max_s=max(2.0 * low, high))
    return Refusal(reason=RefusalReason.OVERLOADED, return_window=window)
