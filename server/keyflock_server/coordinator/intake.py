"""Reports, offers and failures: what phones bring back."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from keyflock_compression import CodecSpec
from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.aggregation.weighting import staleness_factor, weight_of
from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.flushing import Flusher
from keyflock_server.coordinator.micro_batch import AssignedCodec, Outcome, PendingReport, Refusal
from keyflock_server.coordinator.standings import Standings
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.verdict_tally import VerdictTally
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import (
    Failure,
    Noted,
    Offer,
    OfferAction,
    OfferAnswer,
    Receipt,
    Report,
    ReturnWindow,
    TaskKind,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.codec_choice import table_of
from keyflock_server.rounds.decisions import is_goal_met, may_flush
from keyflock_server.rounds.pacing import after_work
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import Superseded
from keyflock_server.storage.records import AssignmentRecord, AssignmentState

_CODES: Final = MappingProxyType(
    {
        Verdict.WRONG_LAYOUT: ProblemCode.WRONG_LAYOUT,
        Verdict.NON_FINITE: ProblemCode.NON_FINITE_DELTA,
        Verdict.TOO_LONG: ProblemCode.DELTA_TOO_LARGE,
        Verdict.EVIDENCE_BOUND: ProblemCode.DELTA_TOO_LARGE,
        Verdict.TOO_MANY_EXAMPLES: ProblemCode.TOO_MANY_EXAMPLES,
    }
)
#: What a phone hears whose assignment has ended without a report.
_ENDED: Final = MappingProxyType(
    {
        AssignmentState.FAILED: "The assignment was given back.",
        AssignmentState.EXPIRED: "The assignment ran out of time.",
    }
)


#: Hashing more would hold up the event loop: 16 MB take 50 ms.
_HASHED_IN_PLACE_BYTES: Final = 65_536


class Intake:
    """Takes reports exactly once."""

    def __init__(
        self,
        world: Surroundings,
        desks: dict[TaskName, Desk],
        flusher: Flusher,
        catch_up: Callable[[], Awaitable[None]],
        tally: VerdictTally,
        standings: Standings,
    ) -> None:
        self._world = world
        self._desks = desks
        self._flusher = flusher
        #: Reads from the store what other processes have opened.
        self._catch_up = catch_up
        self._tally = tally
        self._standings = standings
        self._flushes: set[asyncio.Task[None]] = set()

    async def offer(self, claims: AssignmentClaims, message: Offer) -> OfferAnswer:
        """Whether an upload would count; raises Refused ``quarantined``."""
        self._standings.check(claims.device)
        desk, opened = await self._find(claims)
        window = _window(desk)
        if opened is None:
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The round is over.")
        if message.model_version != claims.model_version:
            detail = f"The assignment trains from version {claims.model_version}."
            return OfferAnswer(action=OfferAction.REBASE, return_window=window, detail=detail)
        if opened.is_held or claims.model_version in opened.withdrawn:
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The round is over.")
        if _is_stale(opened, claims):
            detail = "The model has moved on too far; check in again."
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail=detail)
        member = await self._member(opened, claims)
        is_known = member.state is AssignmentState.COUNTED or opened.batch.get(member.id) is not None
        if member.state in _ENDED:
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail=_ENDED[member.state])
        if not is_known and _is_full(opened):
            return OfferAnswer(action=OfferAction.DROP, return_window=window, detail="The goal is met.")
        return OfferAnswer(action=OfferAction.SEND, return_window=window)

    async def failure(self, claims: AssignmentClaims, message: Failure) -> Noted:
        """Take the assignment back; a repetition, or one that comes too late, changes nothing."""
        desk, opened = await self._find(claims)
        if desk is not None and opened is not None:
            async with desk.lock:
                member = await self._member(opened, claims)
                is_open = opened.round.is_async or opened.round.phase is Phase.COLLECTING
                is_open = is_open and opened.batch.get(member.id) is None
                if is_open and member.state is AssignmentState.ASSIGNED:
                    await self._give_back(desk, opened, member, message.session_shape)
        return Noted(return_window=_window(desk))

    async def report(self, claims: AssignmentClaims, message: Report) -> Receipt:
        """Take a delta in; returns when it is counted, durably.

        A repetition of what was counted is acknowledged again, however late it comes.

        Raises:
            Refused: ``round_gone``, ``report_conflict``, ``wrong_assignment``, ``overloaded``,
                ``report_pending``, ``quarantined``, or what is wrong with the report. Nothing was counted
                then.
        """
        digest = await _digest(message)
        desk, opened = await self._find(claims)
        if desk is None or opened is None:
            return await self._late(claims, digest)
        member = await self._member(opened, claims)
        if member.state is not AssignmentState.ASSIGNED:
            if member.state is not AssignmentState.COUNTED:
                await self._refuse_forgotten(claims)
            return _repeated(member, digest, desk)
        pending = opened.batch.get(member.id)
        if pending is None and self._is_too_late(opened, claims):
            if not self._world.tokens.has_expired(claims, self._world.clock()):
                opened.heard[claims.assignment] = self._world.clock()
            # Not by what this process remembers: another may have counted it meanwhile.
            return await self._late(claims, digest)
        if pending is not None and pending.digest != digest:
            raise _conflict()
        try:
            pending = pending or await self._take_in(desk, opened, claims, message, digest)
            return await self._acknowledged(desk, claims, pending)
        finally:
            opened.batch.leave_unattended(member.id, len(message.delta))

    def unattended_bytes(self) -> int:
        """Bytes of the deltas that wait for their flush though no request is under way for them."""
        return sum(desk.open.batch.unattended_bytes for desk in self._desks.values() if desk.open)

    async def _find(self, claims: AssignmentClaims) -> tuple[Desk | None, OpenRound | None]:
        """The task's desk, and the open round that a report of this assignment would count in."""
        desk = self._desks.get(claims.task)
        opened = _open(desk, claims)
        if opened is None and not self._world.is_sole:
            # Another process may have opened the round since the last pass.
            record = await self._world.store.rounds.get(claims.round)
            if record is not None and record.round.phase is Phase.COLLECTING:
                await self._catch_up()
                desk = self._desks.get(claims.task)
                opened = _open(desk, claims)
        return desk, opened

    async def _member(self, opened: OpenRound, claims: AssignmentClaims) -> AssignmentRecord:
        known = opened.members.get(claims.assignment)
        if known is None:
            known = await self._world.store.rounds.assignment(claims.round, claims.device)
            if known is not None:
                opened.members[known.id] = known
        if known is None or (known.id, known.device) != (claims.assignment, claims.device):
            raise Refused(ProblemCode.WRONG_ASSIGNMENT, "This device has no such assignment in the round.")
        return known

    async def _give_back(
        self, desk: Desk, opened: OpenRound, member: AssignmentRecord, session_shape: str
    ) -> None:
        # Before the row is written: a report of the same device must not slip in meanwhile.
        opened.members[member.id] = replace(member, state=AssignmentState.FAILED)
        try:
            after = await self._world.store.rounds.fail(member, session_shape, self._world.clock())
        except Superseded:
            # Another process has counted it, or taken it back: its row says which.
            del opened.members[member.id]
            return
        except Exception:
            opened.members[member.id] = member
            raise
        if after.round.id == opened.id:
            opened.learn(after)
        desk.training = max(0, desk.training - 1)

    async def settle(self) -> None:
        """Wait for the flushes under way."""
        if self._flushes:
            await asyncio.wait(self._flushes)

    async def _take_in(
        self, desk: Desk, opened: OpenRound, claims: AssignmentClaims, message: Report, digest: bytes
    ) -> PendingReport:
        self._standings.check(claims.device)
        opened.heard[claims.assignment] = self._world.clock()
        if len(opened.batch) >= self._world.max_pending_reports:
            raise Refused(ProblemCode.OVERLOADED, "Too many reports wait to be counted.")
        # Below zero when another process has closed this buffer, and the phone has the model of the next.
        staleness = max(0, opened.round.base_version - claims.model_version)
        pending = PendingReport(
            claims.assignment,
            claims.round,
            claims.device,
            digest,
            weight_of(message.examples, opened.round.spec.aggregation) * staleness_factor(staleness),
            message.session_shape,
            self._world.clock(),
            asyncio.get_running_loop().create_future(),
        )
        opened.batch.reserve(pending)
        try:
            _check_claim(opened, message)
            said = await self._world.workbench.run(
                opened.batch.sum.add,
                pending.id,
                message.delta,
                _assigned_codec(opened, claims),
                pending.weight,
            )
        except Refusal as refusal:
            opened.batch.withdraw(pending.id)
            self._tally.note(desk.task, opened.id, {refusal.verdict: 1})
            await self._standings.strike(opened, claims.device, refusal.verdict)
            code = _CODES.get(refusal.verdict, ProblemCode.MALFORMED_DELTA)
            raise Refused(code, f"{refusal}.") from None
        except Exception:
            # Nothing was added: the place must not wait for ever. (A cancelled wait may have been added.)
            opened.batch.withdraw(pending.id)
            raise
        self._tally.note(desk.task, opened.id, said.counts)
        if may_flush(opened.round, opened.batch.sum.size):
            # A task of its own: a phone that hangs up must not take the others' batch with it.
            flush = asyncio.create_task(self._flusher.flush_if_due(desk))
            self._flushes.add(flush)
            flush.add_done_callback(partial(self._flush_ended, desk.task))
            await asyncio.shield(flush)
        return pending

    def _flush_ended(self, task: TaskName, flush: asyncio.Task[None]) -> None:
        """Whoever waited for it may have hung up: its error is told all the same."""
        self._flushes.discard(flush)
        error = None if flush.cancelled() else flush.exception()
        if isinstance(error, Exception):
            self._world.observer.flush_failed(task, error)

    async def _acknowledged(self, desk: Desk, claims: AssignmentClaims, pending: PendingReport) -> Receipt:
        done, _ = await asyncio.wait([pending.outcome], timeout=self._world.ack_wait_s)
        if not done:
            retry = ReturnWindow(min_s=desk.spec.pacing.min_s / 2, max_s=desk.spec.pacing.min_s)
            raise Refused(ProblemCode.REPORT_PENDING, "The report waits for others of its batch.", retry)
        match pending.outcome.result():
            case Outcome.COUNTED:
                return Receipt(counted=True, return_window=_window(desk))
            case Outcome.CONFLICT:
                raise _conflict()
            case Outcome.ROUND_GONE:
                # Without what waited here; but the phone may have sent it to another process too.
                return await self._late(claims, pending.digest)
            case Outcome.FORGOTTEN:
                raise void_token()
            case Outcome.STOPPING:
                raise Refused(ProblemCode.NOT_READY, "The server is stopping; send the report again.")

    def _is_too_late(self, opened: OpenRound, claims: AssignmentClaims) -> bool:
        has_expired = self._world.tokens.has_expired(claims, self._world.clock())
        is_over = opened.is_held or claims.model_version in opened.withdrawn
        return has_expired or is_over or _is_full(opened) or _is_stale(opened, claims)

    async def _late(self, claims: AssignmentClaims, digest: bytes) -> Receipt:
        """Nothing new is taken: a report that was counted is acknowledged again, another is too late."""
        member = await self._world.store.rounds.assignment(claims.round, claims.device)
        if member is None or member.state is not AssignmentState.COUNTED:
            await self._refuse_forgotten(claims)
            raise _gone()
        return _repeated(member, digest, self._desks.get(claims.task))

    async def _refuse_forgotten(self, claims: AssignmentClaims) -> None:
        """Another process may have forgotten the device, also while its report waited here."""
        if await self._world.store.devices.get(claims.device) is None:
            raise void_token()


def _open(desk: Desk | None, claims: AssignmentClaims) -> OpenRound | None:
    if desk is None or desk.open is None:
        return None
    return desk.open if desk.open.round.is_async or desk.open.id == claims.round else None


def _is_full(opened: OpenRound) -> bool:
    """A buffer is never full: what comes too late for it waits for the next."""
    return not opened.round.is_async and is_goal_met(opened.round, opened.batch.size)


def _is_stale(opened: OpenRound, claims: AssignmentClaims) -> bool:
    passed = opened.round.base_version - claims.model_version
    return passed > opened.round.spec.round.staleness_limit


def _repeated(member: AssignmentRecord, digest: bytes, desk: Desk | None) -> Receipt:
    if member.state in _ENDED:
        raise Refused(ProblemCode.ROUND_GONE, f"{_ENDED[member.state]} Check in again.")
    if member.report_digest != digest:
        raise _conflict()
    return Receipt(counted=True, duplicate=True, return_window=_window(desk))


def _window(desk: Desk | None) -> ReturnWindow:
    if desk is None:
        return ReturnWindow(min_s=60.0, max_s=120.0)
    return after_work(desk.spec.eligibility.min_separation_s, desk.spec.pacing, spread_s=desk.spread_s)


async def _digest(message: Report) -> bytes:
    if len(message.delta) > _HASHED_IN_PLACE_BYTES:
        return await asyncio.to_thread(_digest_now, message)
    return _digest_now(message)


def _digest_now(message: Report) -> bytes:
    hasher = hashlib.sha256(message.delta)
    hasher.update(message.examples.to_bytes(4, "big"))
    return hasher.digest()


def _assigned_codec(opened: OpenRound, claims: AssignmentClaims) -> AssignedCodec:
    spec = CodecSpec.from_wire(claims.codec)
    return AssignedCodec(spec, claims.seed, table_of(opened.round.spec, spec))


def _check_claim(opened: OpenRound, message: Report) -> None:
    """Raises Refusal for a claim that the assignment rules out; below it, the weight's cap bounds a lie."""
    spec = opened.round.spec
    most = spec.training.max_examples
    if spec.kind is TaskKind.TRAIN and message.examples > most:
        detail = f"{message.examples} examples, where the assignment lets a phone use {most}"
        raise Refusal(Verdict.TOO_MANY_EXAMPLES, detail)


def _conflict() -> Refused:
    return Refused(ProblemCode.REPORT_CONFLICT, "Another report was already taken for this assignment.")


def _gone() -> Refused:
    return Refused(ProblemCode.ROUND_GONE, "The round has ended without this report; check in again.")
