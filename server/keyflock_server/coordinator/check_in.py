"""Check-ins: eligibility, sampling, and a slot for whoever is in the sample."""

import contextlib
from datetime import timedelta
from typing import Final

from keyflock_server.aggregation.population_personalisation import first_prior
from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns, stored_assignment, waits_for
from keyflock_server.coordinator.pace import Pace
from keyflock_server.coordinator.standings import Standings
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk, weights_of
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    DeviceRules,
    ModelWeights,
    PersonalisingPlan,
    Refusal,
    RefusalReason,
    ReturnWindow,
    TaskKind,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.availability import hour_of
from keyflock_server.rounds.codec_choice import CodecChoice, codec_for
from keyflock_server.rounds.discarding import discarded_without_version
from keyflock_server.rounds.eligibility import Ineligible, has_taken_part_enough, ineligibility, rules_asked
from keyflock_server.rounds.pacing import SHED_LOAD, no_task_window
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.selection import (
    assignment_id,
    assignment_seed,
    claim_ratio,
    is_sampled,
    round_id,
    sampling_probability,
    task_order,
)
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.door import AlreadyExists, Superseded
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    DeviceRecord,
    participations_of,
)

#: ``last_seen_at`` is written at most so often: it only counts the devices of a day.
_SEEN_EVERY: Final = timedelta(minutes=10)
#: A device whose last silence is so long ago has its whole claim to a slot again.
_SILENCES_KEPT: Final = timedelta(days=7)
#: The least that the store can tell from the instant of enrolment.
_INSTANT: Final = timedelta(microseconds=1)


class CheckIns:
    """Gives out work."""

    def __init__(
        self,
        world: Surroundings,
        desks: dict[TaskName, Desk],
        trunk: Trunk,
        standings: Standings,
        downlink: Downlink,
        early: EarlyCheckIns,
    ) -> None:
        self._world = world
        self._early = early
        self._downlink = downlink
        self._standings = standings
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
        if (early := await self._early.answer(identity.device, desks)) is not None:
            return early
        answer = await self._looked_up(identity, message, desks)
        if isinstance(answer, Refusal):
            self._early.tell(identity.device, answer)
        else:
            self._early.forget(identity.device)
        return answer

    async def _looked_up(
        self, identity: DeviceIdentity, message: CheckIn, desks: list[Desk]
    ) -> Assignment | Refusal:
        device = await self._seen(identity, message)
        if (kept_out := self._standings.refusal(device)) is not None:
            return kept_out
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
        return sorted(
            (active[task] for task in order), key=lambda desk: not waits_for(self._world, desk, device.id)
        )

    async def _answer(self, desk: Desk, device: DeviceRecord, message: CheckIn) -> Assignment | Refusal:
        opened, pace = desk.open, self._pace
        is_held = opened is not None and opened.is_held
        if (
            opened is not None
            and not is_held
            and (known := await self._known(desk, opened, device)) is not None
        ):
            return await self._again(opened, known, message, await self._window_after(desk, device))
        unfit = await self._ineligible(desk, device, message)
        is_proven = device.last_contributed_at is not None
        pace.arrived(desk, is_proven=is_proven, is_eligible=unfit is None)
        window = pace.window(desk)
        if unfit is not None:
            later = ReturnWindow(min_s=max(window.min_s, unfit.wait_s), max_s=max(window.max_s, unfit.wait_s))
            return Refusal(reason=unfit.reason, return_window=later, detail=unfit.detail)
        if is_held:
            return Refusal(reason=RefusalReason.PAUSED, return_window=window)
        if opened is None:
            return _full(await self._window_after(desk, device), "The next round opens soon.")
        if desk.slots_left == 0:
            window = await self._window_after(desk, device)
        probability = self._probability(desk, opened) * await self._claim_ratio(device)
        if not is_sampled(self._world.sampling_key, self._draw(opened), device.id, probability):
            if desk.slots_left == 0:
                return _full(window)
            return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=window)
        return await self._take_slot(desk, opened, device, message, window)

    async def _claim_ratio(self, device: DeviceRecord) -> float:
        """What the device's claim to a slot is worth after assignments that nothing was heard of."""
        if claim_ratio(device.silences) == 1.0:
            return 1.0
        last = await self._world.store.rounds.last_silence(device.id)
        if last is None or self._world.clock() - last >= _SILENCES_KEPT:
            return 1.0
        return claim_ratio(device.silences)

    def _draw(self, opened: OpenRound) -> RoundId:
        """What the sample is drawn for: the round; of a buffer, which may stay open, its hour too."""
        if not opened.round.is_async:
            return opened.id
        return RoundId(f"{opened.id}@{hour_of(self._world.clock().timestamp())}")

    def _probability(self, desk: Desk, opened: OpenRound) -> float:
        """Return the chance of a device to be in the sample now."""
        policy = opened.round.spec.round
        if policy.is_async:
            # Places become free one by one, each for whoever comes next: to be choosy leaves them empty.
            return 1.0
        return sampling_probability(
            policy.slots,
            self._pace.expected(desk, opened),
            (self._world.clock() - opened.round.opened_at).total_seconds(),
            policy.selection_window_s,
        )

    async def _known(self, desk: Desk, opened: OpenRound, device: DeviceRecord) -> AssignmentRecord | None:
        """The device's assignment, if this process has seen it; a buffer asks the store for an older one."""
        known = opened.members.get(assignment_id(self._world.sampling_key, opened.id, device.id))
        if known is not None and known.state is AssignmentState.ASSIGNED and not self._world.is_sole:
            # Another process may have counted it.
            known = await stored_assignment(self._world, desk, opened, device.id)
        if known is None and opened.round.is_async:
            known = await stored_assignment(self._world, desk, opened, device.id)
            if known is not None and opened.withdrawn:
                assigned_in = await self._world.store.rounds.get(known.round_id)
                if assigned_in is not None and assigned_in.round.base_version in opened.withdrawn:
                    return None
        return known

    async def _again(
        self, opened: OpenRound, known: AssignmentRecord, message: CheckIn, window: ReturnWindow
    ) -> Assignment | Refusal:
        """The same answer as before, for a device that is in the round.

        Edge cases:
            no codec of the task keeps to its budget now -> a refusal; its place waits until it comes back
        """
        if known.state is AssignmentState.ASSIGNED and self._world.clock() < known.runs_out_at(opened.round):
            record = opened.record
            if known.round_id != opened.id:
                record = await self._world.store.rounds.get(known.round_id) or record
            if record.round.is_async or record.round.phase is Phase.COLLECTING:
                codec = await self._codec(record.round.spec, message)
                if isinstance(codec, Ineligible):  # by now: it was not when it was assigned
                    return Refusal(reason=codec.reason, return_window=window, detail=codec.detail)
                try:
                    return await self._assignment(record.round, known, codec)
                except Refused as refused:
                    if refused.code is not ProblemCode.MODEL_WITHDRAWN:
                        raise
                    return await self._without_version(record.round, window)
        return Refusal(
            reason=RefusalReason.TOO_SOON, return_window=window, detail="This round knows the device."
        )

    async def _without_version(self, current: Round, window: ReturnWindow) -> Refusal:
        """A round that was opened while its population was rolled back: no phone can train for it."""
        with contextlib.suppress(Superseded):
            event = discarded_without_version(current)
            await self._world.store.rounds.advance(current.id, event, self._world.clock(), {})
        return _full(window, "The next round opens soon.")

    async def _ineligible(self, desk: Desk, device: DeviceRecord, message: CheckIn) -> Ineligible | None:
        spec, rules = desk.spec, desk.spec.eligibility
        unfit = ineligibility(
            rules,
            message,
            device.last_contributed_at,
            self._world.clock(),
            spec.kind,
            tier=device.tier,
            tags=device.tags,
        )
        if unfit is not None:
            return unfit
        codec = await self._codec(spec, message)
        if isinstance(codec, Ineligible):
            return codec
        if rules.max_participations is None:
            return None
        before = participations_of(device.past_participations_json).get(spec.name, 0)
        return has_taken_part_enough(
            rules, before + await self._world.store.rounds.participations(spec.name, device.id)
        )

    async def _codec(self, spec: TaskSpec, message: CheckIn) -> CodecChoice | Ineligible:
        return codec_for(spec, message, await self._trunk.report_layout(spec))

    async def _window_after(self, desk: Desk, device: DeviceRecord) -> ReturnWindow:
        """While a round only waits for reports: whoever is in the next one's sample comes as it opens."""
        opened = desk.open
        sequence = desk.last_sequence
        slots = (desk.spec if opened is None else opened.round.spec).round.slots
        probability = sampling_probability(slots, self._pace.expected_next(desk), 0.0, 1.0)
        probability *= await self._claim_ratio(device)
        if is_sampled(self._world.sampling_key, round_id(desk.task, sequence + 1), device.id, probability):
            return self._pace.next_round_window(desk)
        return self._pace.window(desk)

    async def _take_slot(
        self,
        desk: Desk,
        opened: OpenRound,
        device: DeviceRecord,
        message: CheckIn,
        window: ReturnWindow,
    ) -> Assignment | Refusal:
        world = self._world
        id_ = assignment_id(world.sampling_key, opened.id, device.id)
        async with desk.lock:
            known = opened.members.get(id_)
            if known is None and desk.slots_left > 0:
                known = await self._assigned(desk, opened, device, id_)
            if known is None:
                # All slots are taken; one perhaps by this very device, elsewhere or before a restart.
                known = await world.store.rounds.assignment(opened.id, device.id)
            if known is None:
                return _full(window)
            opened.members[id_] = known
        return await self._again(opened, known, message, window)

    async def _assigned(
        self, desk: Desk, opened: OpenRound, device: DeviceRecord, id_: AssignmentId
    ) -> AssignmentRecord | None:
        """A new row; None if there is no slot, or if the device has one already."""
        row = AssignmentRecord(
            round_id=opened.id,
            device=device.id,
            id=id_,
            state=AssignmentState.ASSIGNED,
            assigned_at=self._world.clock(),
            expires_at=self._pace.expires_at(desk, opened),
        )
        try:
            opened.learn(await self._world.store.rounds.assign(row))
        except (AlreadyExists, Superseded):
            return None
        desk.training += 1
        return row

    async def _assignment(self, current: Round, row: AssignmentRecord, codec: CodecChoice) -> Assignment:
        """What the device is to do; the same, however often it asks, but for the token's bytes.

        And for the codec, if it comes back on another network: it may use either.
        """
        now, expires_at = self._world.clock(), row.runs_out_at(current)
        version = await self._trunk.version(current.population, current.base_version)
        layout = await self._trunk.report_layout(current.spec)
        # A head must fit the trunk that the phone's keyboard serves.
        is_personal = current.spec.kind is TaskKind.PERSONALIZE
        weights = ModelWeights.RELEASED if is_personal else ModelWeights.TRAINING
        seed = assignment_seed(self._world.sampling_key, current.id, row.device)
        claims = AssignmentClaims(
            assignment=row.id,
            device=row.device,
            population=current.population,
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            codec=codec.codec,
            network=codec.network,
            seed=seed,
            layout=layout.digest,
            expires_at=expires_at,
        )
        return Assignment(
            id=row.id,
            token=self._world.tokens.issue(claims),
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            model_digest=version.digest_of(weights),
            layout=layout.digest,
            plan=current.spec.training,
            codec=codec.codec,
            seed=seed,
            expires_in_s=max(0.0, (expires_at - now).total_seconds()),
            task_kind=current.spec.kind,
            personalising=await self._personalising(current, version),
            device_rules=_device_rules(current),
            content_digest=await self._downlink.content(version, weights),
        )

    async def _personalising(self, current: Round, version: VersionRecord) -> PersonalisingPlan | None:
        """Of a ``personalize`` round: the same for all its phones, since only closing it moves the priors."""
        settings = current.spec.personalising
        if current.spec.kind is not TaskKind.PERSONALIZE:
            return None
        known = await self._trunk.personalisation(current.population)
        return PersonalisingPlan(
            head=settings.head_of(current.sequence),
            prior=first_prior() if known is None else known.prior,
            words_needed=settings.words_needed,
            weights=weights_of(version),
        )

    async def _seen(self, identity: DeviceIdentity, message: CheckIn) -> DeviceRecord:
        now = self._world.clock()
        device = await self._world.store.devices.get(identity.device)
        if device is None or device.population != identity.population:
            raise void_token()
        is_changed = (device.app_build, device.locale) != (message.app_build, message.locale)
        # To have enrolled is not to be seen: the first check-in is always later, if by nothing else.
        is_first = device.last_seen_at <= device.enrolled_at
        if is_first or is_changed or now - device.last_seen_at >= _SEEN_EVERY:
            at = max(now, device.enrolled_at + _INSTANT)
            await self._world.store.devices.seen(device.id, message.app_build, message.locale, at)
        return device


def _device_rules(current: Round) -> DeviceRules | None:
    rules = current.spec.eligibility.device
    return rules if rules_asked(rules) else None


def _full(window: ReturnWindow, detail: str = "") -> Refusal:
    return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window, detail=detail)


def _worth(refusal: Refusal) -> tuple[bool, float]:
    """Of several tasks' refusals the phone hears one: of a task that may want it yet, and the soonest."""
    return refusal.reason is RefusalReason.NOT_ELIGIBLE, refusal.return_window.min_s


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
