"""The report service accepts what phones send back: reports, offers and failures."""

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns
from keyflock_server.coordinator.micro_batch import (
    PendingReport,
    ReportOutcome,
)
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.report_intake import ReportIntake, report_digest
from keyflock_server.coordinator.round_counter import RoundCounter
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.calls import REPORT_BODY_BYTES
from keyflock_server.protocol.messages import (
    Failure,
    FailureAck,
    Offer,
    OfferAction,
    OfferAnswer,
    Receipt,
    Report,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.decisions import is_goal_met
from keyflock_server.rounds.pacing import after_work
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.group_writer import GiveBack
from keyflock_server.storage.records import AssignmentRecord, AssignmentState

#: Answers to a phone whose assignment has ended without a report.
_ENDED_DETAILS: Final = MappingProxyType(
    {
        AssignmentState.FAILED: "The assignment was given back.",
        AssignmentState.EXPIRED: "The assignment ran out of time.",
    }
)
_OFFER_DETAILS: Final = MappingProxyType(
    {**_ENDED_DETAILS, AssignmentState.COUNTED: "The report is counted already."}
)


#: Hashing more would hold up the event loop: 16 MB take 50 ms.
_HASHED_IN_PLACE_BYTES: Final = 65_536


class ReportService:
    """Counts each report exactly once."""

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        intake: ReportIntake,
        quarantines: QuarantineService,
        early_check_ins: EarlyCheckIns,
        failures: RoundCounter,
    ) -> None:
        self._failures = failures
        self._deps = deps
        self._registry = registry
        self._intake = intake
        self._quarantines = quarantines
        self._early_check_ins = early_check_ins

    async def offer(self, claims: AssignmentClaims, message: Offer) -> OfferAnswer:
        """Return whether an upload would count; raises ApiError ``quarantined``.

        Edge cases:
            the report waits here to be counted -> send: the same bytes get its receipt
        """
        self._quarantines.check(claims.device)
        state, opened = await self._find(claims)
        window = _next_window(state)
        if opened is None:
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The round is over.")
        if message.size_bytes >= REPORT_BODY_BYTES:
            detail = f"A report takes at most {REPORT_BODY_BYTES} bytes, and the delta alone has more."
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail=detail)
        if message.model_version != claims.model_version:
            detail = f"The assignment trains from version {claims.model_version}."
            return OfferAnswer(action=OfferAction.REBASE, return_window=window, detail=detail)
        if opened.is_held or claims.model_version in opened.withdrawn:
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The round is over.")
        if _is_stale(opened, claims):
            detail = "The model has moved on too far; check in again."
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail=detail)
        member = await self._find_assignment(opened, claims)
        is_pending = opened.batch.get(member.id) is not None
        if member.state is AssignmentState.ASSIGNED and not is_pending and not self._deps.is_sole:
            # Another process may have counted it.
            member = await self._deps.store.assignments.get(claims.round, claims.device) or member
        if member.state in _OFFER_DETAILS:
            return OfferAnswer(
                action=OfferAction.DROP, return_window=window, detail=_OFFER_DETAILS[member.state]
            )
        if not is_pending and _is_full(opened):
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The goal is met.")
        return OfferAnswer(action=OfferAction.SEND, return_window=window)

    async def failure(self, claims: AssignmentClaims, message: Failure) -> FailureAck:
        """Record that the device gives up its assignment; a repeated or late failure changes nothing."""
        state, opened = await self._find(claims)
        if state is not None and opened is not None:
            member = await self._find_assignment(opened, claims)
            is_open = opened.round.is_async or opened.round.phase is Phase.COLLECTING
            is_open = is_open and opened.batch.get(member.id) is None
            if is_open and member.state is AssignmentState.ASSIGNED:
                await self._give_back(state, opened, member, message)
        window = _next_window(state)
        self._early_check_ins.remember_work_done(claims.device, window)
        return FailureAck(return_window=window)

    async def report(self, claims: AssignmentClaims, message: Report) -> Receipt:
        """Accept a delta; return once it is counted durably.

        A repetition of a counted report is acknowledged again, however late it comes.

        Raises:
            ApiError: ``round_gone``, ``report_conflict``, ``wrong_assignment``, ``overloaded``,
                ``report_pending``, ``quarantined``, or what is wrong with the report. Nothing was counted
                then.
        """
        receipt = await self._count(claims, message)
        self._early_check_ins.remember_work_done(claims.device, receipt.return_window)
        return receipt

    async def _count(self, claims: AssignmentClaims, message: Report) -> Receipt:
        state, opened = await self._find(claims)
        if state is None or opened is None:
            return await self._answer_late(state, claims, message)
        member = await self._find_assignment(opened, claims)
        if member.state is not AssignmentState.ASSIGNED:
            if member.state is not AssignmentState.COUNTED:
                await self._refuse_forgotten(claims)
            return _repeat_receipt(member, await _digest(message), state)
        pending = opened.batch.get(member.id)
        if pending is None and self._is_too_late(opened, claims):
            if not self._deps.tokens.has_expired(claims, self._deps.clock()):
                opened.report_arrivals[claims.assignment] = self._deps.clock()
            # Memory does not decide this: another process may have counted it meanwhile.
            return await self._answer_late(state, claims, message)
        if pending is not None and not pending.is_same(message.delta, message.examples):
            raise _conflict()
        try:
            pending = pending or await self._intake.add(state, opened, claims, message)
            return await self._wait_for_commit(state, claims, message, pending)
        finally:
            opened.batch.leave_unattended(member.id, len(message.delta))

    def unattended_bytes(self) -> int:
        """Return the bytes of deltas that wait for their flush though their requests have ended."""
        return sum(state.open_round.batch.unattended_bytes for state in self._registry if state.open_round)

    async def _find(self, claims: AssignmentClaims) -> tuple[TaskState | None, OpenRound | None]:
        """Return the task's state, and the open round in which a report of this assignment would count."""
        state = await self._registry.find(claims.task)
        opened = _open_round_for(state, claims)
        if opened is None and not self._deps.is_sole:
            # Another process may have opened the round since the last pass.
            record = await self._deps.store.rounds.get(claims.round)
            if record is not None and record.round.phase is Phase.COLLECTING:
                await self._registry.sync(claims.task)
                state = await self._registry.find(claims.task)
                opened = _open_round_for(state, claims)
        return state, opened

    async def _find_assignment(self, opened: OpenRound, claims: AssignmentClaims) -> AssignmentRecord:
        known = opened.members.get(claims.assignment)
        if known is None:
            known = await self._deps.store.assignments.get(claims.round, claims.device)
            if known is not None:
                opened.members[known.id] = known
        if known is None or (known.id, known.device) != (claims.assignment, claims.device):
            raise ApiError(ProblemCode.WRONG_ASSIGNMENT, "This device has no such assignment in the round.")
        return known

    async def _give_back(
        self, state: TaskState, opened: OpenRound, member: AssignmentRecord, message: Failure
    ) -> None:
        # Set before the row is written: a report of the same device must not be counted meanwhile.
        opened.members[member.id] = replace(member, state=AssignmentState.FAILED)
        try:
            give_back = GiveBack(member, message.session_shape, self._deps.clock())
            after = await self._deps.writes.submit(give_back)
        except Superseded:
            # Another process has counted or failed it: its row says which.
            opened.members.pop(member.id, None)
            return
        except Exception:
            opened.members[member.id] = member
            raise
        self._deps.observer.given_back(message.cause)
        self._failures.add(member.round_id, message.cause)
        if after.round.id == opened.id:
            opened.refresh(after)
        state.devices_training = max(0, state.devices_training - 1)

    async def _wait_for_commit(
        self, state: TaskState, claims: AssignmentClaims, message: Report, pending: PendingReport
    ) -> Receipt:
        outcome = await _outcome_within(pending.outcome, self._deps.ack_wait_s)
        match outcome:
            case None:
                retry = ReturnWindow(min_s=state.spec.pacing.min_s / 2, max_s=state.spec.pacing.min_s)
                enough = state.spec.round.min_flush_clients
                detail = (
                    f"The report waits for others: a sum is stored of at least {enough} distinct reports."
                )
                raise ApiError(ProblemCode.REPORT_PENDING, detail, retry)
            case ReportOutcome.COUNTED:
                return Receipt(counted=True, return_window=_next_window(state))
            case ReportOutcome.CONFLICT:
                raise _conflict()
            case ReportOutcome.ROUND_GONE:
                # It did not count here; but the phone may have sent it to another process too.
                return await self._answer_late(state, claims, message)
            case ReportOutcome.FORGOTTEN:
                raise void_token()
            case ReportOutcome.STOPPING:
                raise ApiError(ProblemCode.NOT_READY, "The server is stopping; send the report again.")

    def _is_too_late(self, opened: OpenRound, claims: AssignmentClaims) -> bool:
        has_expired = self._deps.tokens.has_expired(claims, self._deps.clock())
        is_over = opened.is_held or claims.model_version in opened.withdrawn
        return has_expired or is_over or _is_full(opened) or _is_stale(opened, claims)

    async def _answer_late(
        self, state: TaskState | None, claims: AssignmentClaims, message: Report
    ) -> Receipt:
        """Acknowledge a counted report again; refuse any other, which is too late."""
        member = await self._deps.store.assignments.get(claims.round, claims.device)
        if member is None or member.state is not AssignmentState.COUNTED:
            await self._refuse_forgotten(claims)
            raise _round_gone()
        return _repeat_receipt(member, await _digest(message), state)

    async def _refuse_forgotten(self, claims: AssignmentClaims) -> None:
        """Refuse a device that another process has erased, perhaps while its report waited here."""
        if await self._deps.store.devices.get(claims.device) is None:
            raise void_token()


def _open_round_for(state: TaskState | None, claims: AssignmentClaims) -> OpenRound | None:
    if state is None or state.open_round is None:
        return None
    return (
        state.open_round if state.open_round.round.is_async or state.open_round.id == claims.round else None
    )


def _is_full(opened: OpenRound) -> bool:
    """Return whether the round needs no more reports; a buffer is never full, the next one takes the rest."""
    return not opened.round.is_async and is_goal_met(opened.round, opened.batch.size)


def _is_stale(opened: OpenRound, claims: AssignmentClaims) -> bool:
    passed = opened.round.base_version - claims.model_version
    return passed > opened.round.spec.round.staleness_limit


def _repeat_receipt(member: AssignmentRecord, digest: bytes, state: TaskState | None) -> Receipt:
    if member.state in _ENDED_DETAILS:
        raise ApiError(ProblemCode.ROUND_GONE, f"{_ENDED_DETAILS[member.state]} Check in again.")
    if member.report_digest != digest:
        raise _conflict()
    return Receipt(counted=True, duplicate=True, return_window=_next_window(state))


def _next_window(state: TaskState | None) -> ReturnWindow:
    if state is None:
        return ReturnWindow(min_s=60.0, max_s=120.0)
    return after_work(state.spec.eligibility.min_separation_s, state.spec.pacing, spread_s=state.spread_s)


async def _digest(message: Report) -> bytes:
    if len(message.delta) > _HASHED_IN_PLACE_BYTES:
        return await asyncio.to_thread(report_digest, message.delta, message.examples)
    return report_digest(message.delta, message.examples)


async def _outcome_within(outcome: "asyncio.Future[ReportOutcome]", timeout_s: float) -> ReportOutcome | None:
    """Return the outcome, or None if it is not there in time."""
    if not outcome.done():
        await asyncio.wait([outcome], timeout=timeout_s)
    return outcome.result() if outcome.done() else None


def _conflict() -> ApiError:
    return ApiError(ProblemCode.REPORT_CONFLICT, "Another report was already taken for this assignment.")


def _round_gone() -> ApiError:
    return ApiError(ProblemCode.ROUND_GONE, "The round has ended without this report; check in again.")
