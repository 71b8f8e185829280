"""Check-ins: decide eligibility and sampling, and give a slot to each device in the sample.

A check-in that is refused asks no database: it is judged by the device's token and by memory. Only the
transaction that gives out a slot goes to the store, and it checks the device's row again.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.assignment_builder import AssignmentBuilder
from keyflock_server.coordinator.codec_choices import CodecChoices
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.coordinator.participation_limits import ParticipationLimits
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.refusals import (
    no_task,
    not_eligible,
    overloaded,
    refusal_priority,
    round_full,
)
from keyflock_server.coordinator.seen_devices import SeenDevices
from keyflock_server.coordinator.task_pace import TaskPace
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.coordinator.token_descriptions import TokenDescriptions
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.availability import hour_of
from keyflock_server.rounds.discarding import discarded_without_version
from keyflock_server.rounds.eligibility import (
    Ineligible,
    contribution_limit,
    download_too_large,
    ineligibility,
)
from keyflock_server.rounds.pacing import SHED_LOAD
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.selection import (
    UNWANTED_AFTER_WINDOWS,
    assignment_id,
    claim_ratio,
    is_sampled,
    round_id,
    task_order,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import AlreadyExists, SlotRefused, StorageError, Superseded
from keyflock_server.storage.interfaces.group_writer import TakeSlot
from keyflock_server.storage.records import AssignmentRecord, AssignmentState

#: After this time since its last silence, a device has its whole claim to a slot again.
_SILENCE_RETENTION: Final = timedelta(days=7)
_OPENS_SOON: Final = "The next round opens soon."


@dataclass(slots=True)
class _Visit:
    """One check-in, as every task judges it."""

    identity: DeviceIdentity
    message: CheckIn
    now: datetime
    #: The same in seconds since the epoch.
    now_s: float
    #: How far the server is beyond its capacity.
    load: float
    #: When a report of the device was last counted.
    last_contributed_at: datetime | None

    @property
    def device(self) -> DeviceId:
        return self.identity.device


class CheckInService:
    """Answers check-ins with an assignment or a refusal."""

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        models: ModelStore,
        quarantines: QuarantineService,
        assignments: AssignmentBuilder,
        early_check_ins: EarlyCheckIns,
        pace: PaceSteering,
        seen_devices: SeenDevices,
    ) -> None:
        self._deps = deps
        self._early_check_ins = early_check_ins
        self._assignments = assignments
        self._quarantines = quarantines
        self._registry = registry
        self._codecs = CodecChoices(models)
        self._pace = pace
        self._seen_devices = seen_devices
        self._descriptions = TokenDescriptions(deps)
        self._participations = ParticipationLimits(deps)

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Return work for the device, or the reason why there is none.

        Guarantees:
            A refusal asks the store nothing, unless the device is in a round's sample, or is in a round.
            A device in the sample is told by its row that it is not enrolled any more, is quarantined or has
            contributed; any other device by memory, which another process's doings reach a pass later.
        Raises:
            ApiError: ``token_invalid`` for a device that is not enrolled any more.
        """
        deps, tasks = self._deps, self._registry.in_population(identity.population)
        if (load := deps.load()) >= SHED_LOAD:
            return overloaded(tasks, load)
        now, device = deps.clock(), identity.device
        if (refusal := self._early_check_ins.repeated_refusal(identity, tasks, now)) is not None:
            return refusal
        if not identity.is_described:
            identity = await self._descriptions.described(identity)
        contributed_at = deps.activity.last_contribution(device, identity.last_contributed_at)
        visit = _Visit(identity, message, now, now.timestamp(), load, contributed_at)
        self._seen_devices.note(device, message, now, visit.now_s)
        if (quarantine_refusal := self._quarantines.refusal(device, now)) is not None:
            return quarantine_refusal
        answer = await self._decide(visit, tasks)
        if isinstance(answer, Refusal):
            # A quarantine is in memory in any case, and any process may end it.
            if answer.reason is not RefusalReason.QUARANTINED:
                self._early_check_ins.remember(identity, answer, now)
        else:
            self._early_check_ins.forget(device)
        return answer

    async def _decide(self, visit: _Visit, tasks: Sequence[TaskState]) -> Assignment | Refusal:
        active = [state for state in tasks if state.status is TaskStatus.ACTIVE]
        if not active:
            return no_task(tasks)
        if len(active) == 1:
            return await self._answer_for_task(active[0], visit)
        refusals: list[Refusal] = []
        for state in self._in_task_order(active, visit):
            answer = await self._answer_for_task(state, visit)
            if isinstance(answer, Assignment) or answer.reason is RefusalReason.QUARANTINED:
                return answer
            refusals.append(answer)
        return min(refusals, key=refusal_priority)

    def _in_task_order(self, active: Sequence[TaskState], visit: _Visit) -> list[TaskState]:
        """Order the tasks: first one that waits for this device (its answer may be lost), then by traffic."""
        by_name = {state.task: state for state in active}
        traffic = {state.task: state.spec.task.traffic for state in active}
        order = task_order(self._deps.sampling_key, visit.device, traffic, visit.now_s)
        return sorted(
            (by_name[task] for task in order),
            key=lambda state: not state.has_open_assignment(visit.device, visit.now),
        )

    async def _answer_for_task(self, state: TaskState, visit: _Visit) -> Assignment | Refusal:
        opened = state.open_round
        pace = self._pace.at(state, visit.now, visit.now_s, visit.load)
        is_held = opened is not None and opened.is_held
        if opened is not None and visit.device in opened.unsure_slots:
            await self._settle_unsure_slot(opened, visit.device)
        if opened is not None and not is_held and opened.assignment_of(visit.device, visit.now) is not None:
            known = await self._find_assignment(opened, visit)
            if known is not None:
                window = self._window_until_next_round(state, pace, visit)
                return await self._repeat_answer(opened, known, visit, window)
        broken = await self._check_eligibility(state, visit)
        is_proven = visit.last_contributed_at is not None
        self._pace.record_check_in(state, visit.now_s, is_proven=is_proven, is_eligible=broken is None)
        if broken is not None:
            return not_eligible(broken, pace.window)
        if is_held:
            return Refusal(reason=RefusalReason.PAUSED, return_window=pace.window)
        if opened is None:
            return round_full(self._window_until_next_round(state, pace, visit), _OPENS_SOON)
        if state.slots_left == 0:
            return round_full(self._window_until_next_round(state, pace, visit))
        probability = pace.probability * self._claim_ratio(state, visit)
        sampling_round = self._sampling_round(opened, visit)
        if not is_sampled(self._deps.sampling_key, sampling_round, visit.device, probability):
            return pace.not_sampled
        return await self._answer_sampled(state, opened, visit, pace.window)

    async def _answer_sampled(
        self, state: TaskState, opened: OpenRound, visit: _Visit, window: ReturnWindow
    ) -> Assignment | Refusal:
        if (limit := await self._participations.limit(opened.round.spec, visit.device)) is not None:
            return not_eligible(limit, window)
        writes = self._deps.activity.quarantine_writes
        try:
            return await self._take_slot(state, opened, visit, window)
        except SlotRefused as refused:
            facts = refused.facts
        if facts is None:
            raise void_token()
        self._deps.activity.adopt(facts, writes)
        if (quarantine_refusal := self._quarantines.refusal(visit.device, visit.now)) is not None:
            return quarantine_refusal
        broken = contribution_limit(opened.round.spec.eligibility, facts.last_contributed_at, visit.now)
        return round_full(window) if broken is None else not_eligible(broken, window)

    async def _settle_unsure_slot(self, opened: OpenRound, device: DeviceId) -> None:
        """Find out whether a slot whose transaction was not answered was given."""
        row = await self._deps.store.assignments.get(opened.unsure_slots[device], device)
        opened.unsure_slots.pop(device, None)
        if row is not None:
            opened.members.setdefault(row.id, row)

    def _claim_ratio(self, state: TaskState, visit: _Visit) -> float:
        """Return how much of its claim to a slot the device keeps after assignments that stayed silent.

        Edge cases:
            nobody has taken a free slot for twice the time of selection -> 1: nobody else wants it
        """
        silences = self._deps.activity.silences(visit.device)
        if silences is None or silences.last_at is None or visit.now - silences.last_at >= _SILENCE_RETENTION:
            return 1.0
        opened = state.open_round
        idle_s = 0.0 if opened is None else opened.idle_s(visit.now)
        if state.slots_left > 0 and idle_s >= UNWANTED_AFTER_WINDOWS * state.selection_window_s:
            return 1.0
        return claim_ratio(silences.count)

    def _sampling_round(self, opened: OpenRound, visit: _Visit) -> RoundId:
        """Return what the sample is drawn for: the round; for a long-lived buffer, its hour too."""
        if not opened.round.is_async:
            return opened.id
        return RoundId(f"{opened.id}@{hour_of(visit.now_s)}")

    async def _find_assignment(self, opened: OpenRound, visit: _Visit) -> AssignmentRecord | None:
        """Return the device's assignment, which this process knows; another one may have counted it."""
        known = opened.assignment_of(visit.device, visit.now)
        if known is not None and known.state is AssignmentState.ASSIGNED and not self._deps.is_sole:
            known = await self._deps.store.assignments.get(known.round_id, visit.device)
        if known is not None and known.round_id != opened.id:
            if known.state is not AssignmentState.ASSIGNED:
                return None
            if opened.withdrawn:
                assigned_in = await self._deps.store.rounds.get(known.round_id)
                if assigned_in is not None and assigned_in.round.base_version in opened.withdrawn:
                    return None
        return known

    async def _repeat_answer(
        self,
        opened: OpenRound,
        known: AssignmentRecord,
        visit: _Visit,
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
                codec = await self._codecs.choice(record.round.spec, visit.message)
                if (too_large := await self._download_too_large(opened, record.round, visit)) is not None:
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
        return round_full(window, _OPENS_SOON)

    async def _check_eligibility(self, state: TaskState, visit: _Visit) -> Ineligible | None:
        opened, identity = state.open_round, visit.identity
        spec = state.spec if opened is None else opened.round.spec
        ineligible = ineligibility(
            spec.eligibility,
            visit.message,
            visit.last_contributed_at,
            visit.now,
            spec.kind,
            tier=identity.tier,
            tags=identity.tags,
        )
        if ineligible is not None:
            return ineligible
        codec = await self._codecs.choice(spec, visit.message)
        if isinstance(codec, Ineligible):
            return codec
        # Where no round is open, it is not known which model the next one begins with.
        if opened is not None:
            too_large = await self._download_too_large(opened, opened.round, visit)
            if too_large is not None:
                return too_large
        return self._participations.known_limit(spec, visit.device)

    async def _download_too_large(
        self, opened: OpenRound, current: Round, visit: _Visit
    ) -> Ineligible | None:
        """Return the broken limit if the model of ``current``, a round of this task, is too large."""
        known = opened.download_bytes
        if current.base_version not in known:
            known[current.base_version] = await self._assignments.download_bytes(current)
        return download_too_large(visit.message, known[current.base_version])

    def _window_until_next_round(self, state: TaskState, pace: TaskPace, visit: _Visit) -> ReturnWindow:
        """Return when to come while the round only waits: devices in the next sample come as it opens."""
        opened = state.open_round
        if opened is not None and opened.round.is_async:
            return pace.window  # places become free one by one, for whoever comes next
        if pace.meets:
            return pace.meeting_window
        probability = pace.next_round_probability * self._claim_ratio(state, visit)
        following = round_id(state.task, state.last_sequence + 1)
        if is_sampled(self._deps.sampling_key, following, visit.device, probability):
            return pace.next_round_window
        return pace.window

    async def _take_slot(
        self, state: TaskState, opened: OpenRound, visit: _Visit, window: ReturnWindow
    ) -> Assignment | Refusal:
        id_ = assignment_id(self._deps.sampling_key, opened.id, visit.device)
        known, is_new = opened.members.get(id_), False
        if known is None:
            if state.slots_left == 0:
                return round_full(window)
            known = await self._try_assign(state, opened, visit.device, id_)
            is_new = known is not None
        if known is None:
            # The slots are taken, perhaps one by this device, in another process.
            known = await self._deps.store.assignments.get(opened.id, visit.device)
        if known is None:
            return round_full(window)
        # Another check-in of the device may have been quicker, and more has happened since.
        known = opened.members.setdefault(id_, known)
        return await self._repeat_answer(opened, known, visit, window, is_new=is_new)

    async def _try_assign(
        self, state: TaskState, opened: OpenRound, device: DeviceId, id_: AssignmentId
    ) -> AssignmentRecord | None:
        """Store a new assignment and return it; None if there is no slot or the device has one already."""
        row = AssignmentRecord(
            round_id=opened.id,
            device=device,
            id=id_,
            state=AssignmentState.ASSIGNED,
            assigned_at=self._deps.clock(),
            expires_at=self._pace.assignment_expires_at(state, opened),
        )
        opened.slots_asked += 1
        try:
            opened.refresh(await self._deps.writes.submit(TakeSlot(row)))
        except SlotRefused:
            raise
        except (AlreadyExists, Superseded):
            return None
        except StorageError:
            opened.unsure_slots[device] = opened.id
            raise
        finally:
            opened.slots_asked -= 1
        state.devices_training += 1
        return row
