"""Check-ins: decide eligibility and sampling, and give a slot to each device in the sample."""

import contextlib
from datetime import timedelta
from typing import Final

from keyflock_server.coordinator.assignment_builder import AssignmentBuilder
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns, has_open_assignment, stored_assignment
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.availability import hour_of
from keyflock_server.rounds.codec_choice import CodecChoice, codec_for
from keyflock_server.rounds.discarding import discarded_without_version
from keyflock_server.rounds.eligibility import (
    Ineligible,
    download_too_large,
    ineligibility,
    participation_limit_reached,
)
from keyflock_server.rounds.pacing import SHED_LOAD, no_task_window
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.selection import (
    UNWANTED_AFTER_WINDOWS,
    assignment_id,
    claim_ratio,
    is_sampled,
    round_id,
    sampling_probability,
    task_order,
)
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.errors import AlreadyExists, Superseded
from keyflock_server.storage.interfaces.group_writer import TakeSlot
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    DeviceRecord,
    parse_participations,
)

#: ``last_seen_at`` is written at most once in this interval: it only serves to count the devices of a day.
_LAST_SEEN_INTERVAL: Final = timedelta(minutes=10)
#: After this time since its last silence, a device has its whole claim to a slot again.
_SILENCE_RETENTION: Final = timedelta(days=7)
#: The smallest time step that the store can distinguish from the instant of enrolment.
_MIN_TIME_STEP: Final = timedelta(microseconds=1)


class CheckInService:
    """Answers check-ins with an assignment or a refusal."""

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        models: ModelStore,
        quarantines: QuarantineService,
        downlink: Downlink,
        early_check_ins: EarlyCheckIns,
    ) -> None:
        self._deps = deps
        self._early_check_ins = early_check_ins
        self._assignments = AssignmentBuilder(deps, models, downlink)
        self._quarantines = quarantines
        self._registry = registry
        self._models = models
        self._pace = PaceSteering(deps)

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Return work for the device, or the reason why there is none.

        Raises:
            ApiError: ``token_invalid`` for a device that is not enrolled any more.
        """
        tasks = self._registry.in_population(identity.population)
        load = self._deps.load()
        if load >= SHED_LOAD:
            return _overloaded(tasks, load)
        if (refusal := await self._early_check_ins.repeated_refusal(identity.device, tasks)) is not None:
            return refusal
        answer = await self._decide(identity, message, tasks)
        if isinstance(answer, Refusal):
            self._early_check_ins.remember(identity.device, answer)
        else:
            self._early_check_ins.forget(identity.device)
        return answer

    async def _decide(
        self, identity: DeviceIdentity, message: CheckIn, tasks: list[TaskState]
    ) -> Assignment | Refusal:
        device = await self._touch_device(identity, message)
        if (quarantine_refusal := self._quarantines.refusal(device)) is not None:
            return quarantine_refusal
        active = {state.task: state for state in tasks if state.status is TaskStatus.ACTIVE}
        if not active:
            return _no_task(tasks)
        refusals: list[Refusal] = []
        for state in self._in_task_order(active, device):
            await self._pace.refresh_stats(state)
            answer = await self._answer_for_task(state, device, message)
            if isinstance(answer, Assignment):
                return answer
            refusals.append(answer)
        return min(refusals, key=_refusal_priority, default=_no_task(tasks))

    def _in_task_order(self, active: dict[TaskName, TaskState], device: DeviceRecord) -> list[TaskState]:
        """Order the tasks: first one that waits for this device (its answer may be lost), then by traffic."""
        traffic = {task: state.spec.task.traffic for task, state in active.items()}
        order = task_order(self._deps.sampling_key, device.id, traffic, self._deps.clock().timestamp())
        return sorted(
            (active[task] for task in order),
            key=lambda state: not has_open_assignment(self._deps, state, device.id),
        )

    async def _answer_for_task(
        self, state: TaskState, device: DeviceRecord, message: CheckIn
    ) -> Assignment | Refusal:
        opened, pace = state.open_round, self._pace
        is_held = opened is not None and opened.is_held
        if (
            opened is not None
            and not is_held
            and (known := await self._find_assignment(state, opened, device)) is not None
        ):
            return await self._repeat_answer(
                opened, known, message, await self._window_until_next_round(state, device)
            )
        ineligible = await self._check_eligibility(state, device, message)
        is_proven = device.last_contributed_at is not None
        pace.record_check_in(state, is_proven=is_proven, is_eligible=ineligible is None)
        window = pace.window(state)
        if ineligible is not None:
            later = ReturnWindow(
                min_s=max(window.min_s, ineligible.wait_s), max_s=max(window.max_s, ineligible.wait_s)
            )
            return Refusal(reason=ineligible.reason, return_window=later, detail=ineligible.detail)
        if is_held:
            return Refusal(reason=RefusalReason.PAUSED, return_window=window)
        if opened is None:
            return _round_full(
                await self._window_until_next_round(state, device), "The next round opens soon."
            )
        if state.slots_left == 0:
            window = await self._window_until_next_round(state, device)
        probability = pace.probability(state, opened) * await self._claim_ratio(state, device)
        if not is_sampled(self._deps.sampling_key, self._sampling_round(opened), device.id, probability):
            if state.slots_left == 0:
                return _round_full(window)
            return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=window)
        return await self._take_slot(state, opened, device, message, window)

    async def _claim_ratio(self, state: TaskState, device: DeviceRecord) -> float:
        """Return how much of its claim to a slot the device keeps after assignments that stayed silent.

        Edge cases:
            nobody has taken a free slot for twice the time of selection -> 1: nobody else wants it
        """
        if claim_ratio(device.silences) == 1.0:
            return 1.0
        opened = state.open_round
        idle_s = 0.0 if opened is None else opened.idle_s(self._deps.clock())
        if state.slots_left > 0 and idle_s >= UNWANTED_AFTER_WINDOWS * state.selection_window_s:
            return 1.0
        last = await self._deps.store.assignments.last_silence(device.id)
        if last is None or self._deps.clock() - last >= _SILENCE_RETENTION:
            return 1.0
        return claim_ratio(device.silences)

    def _sampling_round(self, opened: OpenRound) -> RoundId:
        """Return what the sample is drawn for: the round; for a long-lived buffer, its hour too."""
        if not opened.round.is_async:
            return opened.id
        return RoundId(f"{opened.id}@{hour_of(self._deps.clock().timestamp())}")

    async def _find_assignment(
        self, state: TaskState, opened: OpenRound, device: DeviceRecord
    ) -> AssignmentRecord | None:
        """Return the device's assignment if this process has seen it; for a buffer, ask the store too."""
        known = opened.members.get(assignment_id(self._deps.sampling_key, opened.id, device.id))
        if known is not None and known.state is AssignmentState.ASSIGNED and not self._deps.is_sole:
            # Another process may have counted it.
            known = await stored_assignment(self._deps, state, opened, device.id)
        if known is None and opened.round.is_async:
            known = await stored_assignment(self._deps, state, opened, device.id)
            if known is not None and opened.withdrawn:
                assigned_in = await self._deps.store.rounds.get(known.round_id)
                if assigned_in is not None and assigned_in.round.base_version in opened.withdrawn:
                    return None
        return known

    async def _repeat_answer(
        self,
        opened: OpenRound,
        known: AssignmentRecord,
        message: CheckIn,
        window: ReturnWindow,
        *,
        is_new: bool = False,
    ) -> Assignment | Refusal:
        """Answer a device that is in the round, as before; ``is_new``: it has just come into the round.

        Edge cases:
            the device has no budget for the model or for any codec of the task now -> a refusal; its slot
            waits until it comes back
        """
        if known.state is AssignmentState.ASSIGNED and self._deps.clock() < known.runs_out_at(opened.round):
            record = opened.record
            if known.round_id != opened.id:
                record = await self._deps.store.rounds.get(known.round_id) or record
            if record.round.is_async or record.round.phase is Phase.COLLECTING:
                codec = await self._codec(record.round.spec, message)
                if (too_large := await self._download_too_large(opened, record.round, message)) is not None:
                    codec = too_large
                if isinstance(codec, Ineligible):  # now; it was eligible when it was assigned
                    return Refusal(reason=codec.reason, return_window=window, detail=codec.detail)
                try:
                    answer = await self._assignments.build(record.round, known, codec)
                except ApiError as refused:
                    if refused.code is not ProblemCode.MODEL_WITHDRAWN:
                        raise
                    return await self._discard_without_version(record.round, window)
                self._deps.observer.assigned(codec.network, answer.codec["codec"], is_repeated=not is_new)
                return answer
        return Refusal(
            reason=RefusalReason.TOO_SOON, return_window=window, detail="This round knows the device."
        )

    async def _discard_without_version(self, current: Round, window: ReturnWindow) -> Refusal:
        """Discard a round that was opened while its population was rolled back: no phone can train for it."""
        with contextlib.suppress(Superseded):
            event = discarded_without_version(current)
            await self._deps.store.rounds.advance(current.id, event, self._deps.clock(), {})
        return _round_full(window, "The next round opens soon.")

    async def _check_eligibility(
        self, state: TaskState, device: DeviceRecord, message: CheckIn
    ) -> Ineligible | None:
        spec, rules = state.spec, state.spec.eligibility
        ineligible = ineligibility(
            rules,
            message,
            device.last_contributed_at,
            self._deps.clock(),
            spec.kind,
            tier=device.tier,
            tags=device.tags,
        )
        if ineligible is not None:
            return ineligible
        codec = await self._codec(spec, message)
        if isinstance(codec, Ineligible):
            return codec
        # Where no round is open, it is not known which model the next one begins with.
        if (opened := state.open_round) is not None:
            too_large = await self._download_too_large(opened, opened.round, message)
            if too_large is not None:
                return too_large
        if rules.max_participations is None:
            return None
        before = parse_participations(device.past_participations_json).get(spec.name, 0)
        return participation_limit_reached(
            rules, before + await self._deps.store.assignments.participations(spec.name, device.id)
        )

    async def _download_too_large(
        self, opened: OpenRound, current: Round, message: CheckIn
    ) -> Ineligible | None:
        """Return the broken limit if the model of ``current``, a round of this task, is too large."""
        known = opened.download_bytes
        if current.base_version not in known:
            known[current.base_version] = await self._assignments.download_bytes(current)
        return download_too_large(message, known[current.base_version])

    async def _codec(self, spec: TaskSpec, message: CheckIn) -> CodecChoice | Ineligible:
        return codec_for(spec, message, await self._models.report_layout(spec))

    async def _window_until_next_round(self, state: TaskState, device: DeviceRecord) -> ReturnWindow:
        """Return when to come while the round only waits: devices in the next sample come as it opens."""
        opened, sequence = state.open_round, state.last_sequence
        if opened is not None and opened.round.is_async:
            return self._pace.window(state)  # places become free one by one, for whoever comes next
        if (window := self._pace.meeting_window(state)) is not None:
            return window
        slots = (state.spec if opened is None else opened.round.spec).round.slots
        probability = sampling_probability(slots, self._pace.expected_devices_next(state), 0.0, 1.0)
        probability *= await self._claim_ratio(state, device)
        if is_sampled(self._deps.sampling_key, round_id(state.task, sequence + 1), device.id, probability):
            return self._pace.next_round_window(state)
        return self._pace.window(state)

    async def _take_slot(
        self,
        state: TaskState,
        opened: OpenRound,
        device: DeviceRecord,
        message: CheckIn,
        window: ReturnWindow,
    ) -> Assignment | Refusal:
        deps = self._deps
        id_ = assignment_id(deps.sampling_key, opened.id, device.id)
        known, is_new = opened.members.get(id_), False
        if known is None and state.slots_left > 0:
            known = await self._try_assign(state, opened, device, id_)
            is_new = known is not None
        if known is None:
            # All slots are taken, perhaps one by this device, in another process or before a restart.
            known = await deps.store.assignments.get(opened.id, device.id)
        if known is None:
            return _round_full(window)
        # Another check-in of the device may have been quicker, and more has happened since.
        known = opened.members.setdefault(id_, known)
        return await self._repeat_answer(opened, known, message, window, is_new=is_new)

    async def _try_assign(
        self, state: TaskState, opened: OpenRound, device: DeviceRecord, id_: AssignmentId
    ) -> AssignmentRecord | None:
        """Store a new assignment and return it; None if there is no slot or the device has one already."""
        row = AssignmentRecord(
            round_id=opened.id,
            device=device.id,
            id=id_,
            state=AssignmentState.ASSIGNED,
            assigned_at=self._deps.clock(),
            expires_at=self._pace.assignment_expires_at(state, opened),
        )
        opened.slots_asked += 1
        try:
            opened.refresh(await self._deps.writes.submit(TakeSlot(row)))
        except (AlreadyExists, Superseded):
            return None
        finally:
            opened.slots_asked -= 1
        state.devices_training += 1
        return row

    async def _touch_device(self, identity: DeviceIdentity, message: CheckIn) -> DeviceRecord:
        now = self._deps.clock()
        device = await self._deps.store.devices.get(identity.device)
        if device is None or device.population != identity.population:
            raise void_token()
        is_changed = (device.app_build, device.locale) != (message.app_build, message.locale)
        # Enrolling does not count as being seen: the first check-in is always dated later.
        is_first = device.last_seen_at <= device.enrolled_at
        if is_first or is_changed or now - device.last_seen_at >= _LAST_SEEN_INTERVAL:
            at = max(now, device.enrolled_at + _MIN_TIME_STEP)
            await self._deps.store.devices.touch(device.id, message.app_build, message.locale, at)
        return device


def _round_full(window: ReturnWindow, detail: str = "") -> Refusal:
    return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window, detail=detail)


def _refusal_priority(refusal: Refusal) -> tuple[bool, float]:
    """Return the sort key of a refusal: the phone gets one, of a task that may still want it, the soonest."""
    return refusal.reason is RefusalReason.NOT_ELIGIBLE, refusal.return_window.min_s


def _no_task(tasks: list[TaskState]) -> Refusal:
    is_paused = any(state.status is TaskStatus.PAUSED for state in tasks)
    if is_paused:
        low = max(state.spec.pacing.min_s for state in tasks if state.status is TaskStatus.PAUSED)
        window = ReturnWindow(min_s=low, max_s=2 * low)
        return Refusal(reason=RefusalReason.PAUSED, return_window=window)
    return Refusal(reason=RefusalReason.NO_ACTIVE_TASK, return_window=no_task_window())


def _overloaded(tasks: list[TaskState], load: float) -> Refusal:
    """Return a refusal from memory: an overloaded server queries nothing for a phone that can come later."""
    low = max((state.spec.pacing.min_s for state in tasks), default=60.0) * (1.0 + load)
    high = max((state.spread_s for state in tasks), default=0.0)
    window = ReturnWindow(min_s=low, max_s=max(2.0 * low, high))
    return Refusal(reason=RefusalReason.OVERLOADED, return_window=window)
