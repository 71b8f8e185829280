"""What one phone does in one visit: check-in, model, training, offer, report, with the accidents of its fate.

The script follows the protocol as an SDK does: refusals are obeyed, and a report whose answer is unknown is
sent again, the same bytes, until the answer is known. A fate is drawn before the visit, so that the load is
the same whatever the server answers.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from keyflock_client_sim.device.installation import CODECS
from keyflock_load_tests.line import Line
from keyflock_load_tests.measured_calls import CallFailed, MeasuredCalls, request_of
from keyflock_load_tests.measurement import VISIT, Sample
from keyflock_load_tests.scenario import PhonePlan
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.problems import ProblemCode

APP_BUILD = 100
LOCALE = "en-US"

OpenLine = Callable[[], AbstractAsyncContextManager[Line]]
DeltaFor = Callable[[messages.Assignment], bytes]


@dataclass(slots=True)
class Phone:
    """What a phone remembers between visits."""

    token: str
    examples: int
    #: Digest of the model that it has; it does not download that one again.
    model_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Fate:
    """What befalls a phone in one visit."""

    training_s: float = 0.0
    drops_out: bool = False
    loses_connection: bool = False

    @classmethod
    def drawn(cls, plan: PhonePlan, rng: random.Random) -> "Fate":
        """The next fate; always the same number of draws, so that visits stay comparable between plans."""
        return cls(
            training_s=rng.expovariate(1.0) * plan.mean_training_s,
            drops_out=rng.random() < plan.drop_out_share,
            loses_connection=rng.random() < plan.lost_connection_share,
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """One phone's visit.

    Args:
        phone: Who comes.
        fate: What happens to it.
        plan: How patient it is.
        delta_for: An encoded delta that fits an assignment.
        open_line: A new connection.
        measured: How calls are made.
    """

    phone: Phone
    fate: Fate
    plan: PhonePlan
    delta_for: DeltaFor
    open_line: OpenLine
    measured: MeasuredCalls

    async def run(self, due_at_s: float) -> None:
        """Goes through the visit that was due at ``due_at_s``; the measurements keep what happens."""
        notes = self.measured.measurements
        try:
            ending = await self._story(due_at_s)
        except CallFailed as failure:
            ending = f"failed: {failure.outcome}"
        except ConnectionError:
            ending = "failed: lost"
        notes.endings[ending] += 1
        if ending == "reported":
            busy_from_s = due_at_s + self.fate.training_s
            notes.samples.append(Sample(VISIT, busy_from_s, due_at_s, self.measured.clock(), "ok"))

    async def _story(self, due_at_s: float) -> str:
        async with self.open_line() as line:
            answer = await self._check_in(line, due_at_s)
            if isinstance(answer, messages.Refusal):
                return "refused"
            await self._download(line, answer)
            training_ends_at_s = self.measured.clock() + self.fate.training_s
            await asyncio.sleep(self.fate.training_s)
            if self.fate.drops_out:
                return "dropped out"
            delta = self.delta_for(answer)
            action = await self._offer(line, answer, len(delta), training_ends_at_s)
            if action is not messages.OfferAction.SEND:
                return f"told to {action}"
            return await self._deliver(line, answer, delta)

    async def _check_in(self, line: Line, due_at_s: float) -> messages.CheckInAnswer:
        message = messages.CheckIn(
            protocol=messages.PROTOCOL,
            app_build=APP_BUILD,
            locale=LOCALE,
            examples=self.phone.examples,
            capabilities=messages.Capabilities(codecs=CODECS),
        )
        request = request_of(calls.CHECK_IN, self.phone.token, message=message)
        response = await self.measured.send(line, calls.CHECK_IN, request, due_at_s=due_at_s)
        answer: messages.CheckInAnswer = wire.decode(response.body, messages.CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
        word = answer.reason if isinstance(answer, messages.Refusal) else "assignment"
        self.measured.measurements.check_ins[word] += 1
        return answer

    async def _download(self, line: Line, assignment: messages.Assignment) -> None:
        if assignment.model_digest == self.phone.model_digest:
            return
        request = request_of(calls.MODEL, self.phone.token, version=assignment.model_version)
        await self.measured.send(line, calls.MODEL, request, due_at_s=self.measured.clock())
        self.phone.model_digest = assignment.model_digest

    async def _offer(
        self, line: Line, assignment: messages.Assignment, size_bytes: int, due_at_s: float
    ) -> messages.OfferAction:
        message = messages.Offer(size_bytes=size_bytes, model_version=assignment.model_version)
        request = request_of(calls.OFFER, self.phone.token, message=message, assignment=assignment)
        response = await self.measured.send(line, calls.OFFER, request, due_at_s=due_at_s)
        return wire.decode(response.body, messages.OfferAnswer).action

    async def _deliver(self, line: Line, assignment: messages.Assignment, delta: bytes) -> str:
        report = messages.Report(
            delta=delta,
            examples=min(self.phone.examples, assignment.plan.max_examples),
            train_s=self.fate.training_s,
            session_shape="-v[]+",
        )
        request = request_of(calls.REPORT, self.phone.token, message=report, assignment=assignment)
        self.measured.measurements.unsettled.add(assignment.id)
        try:
            receipt = await self._until_answered(line, assignment, request)
        except CallFailed as failure:
            if failure.outcome == ProblemCode.ROUND_GONE:
                return "too late"
            raise
        self.measured.measurements.ack(assignment.id, is_duplicate=receipt.duplicate)
        return "reported"

    async def _until_answered(
        self, line: Line, assignment: messages.Assignment, request: Request
    ) -> messages.Receipt:
        """The receipt; the same bytes go again on new connections until the answer is known."""
        pause_s = self.plan.retry_pause_s
        if self.fate.loses_connection:
            due_at_s = self.measured.clock()
            await self.measured.send_and_hang_up(line, calls.REPORT, request, due_at_s=due_at_s)
        else:
            try:
                return await self._send_once(line, request)
            except CallFailed as failure:
                if not _may_retry(failure):
                    self.measured.measurements.unsettled.discard(assignment.id)
                    raise
                pause_s = failure.retry_after_s or pause_s
        for _ in range(self.plan.max_retries):
            await asyncio.sleep(pause_s)
            try:
                async with self.open_line() as again:
                    return await self._send_once(again, request)
            except CallFailed as failure:
                if not _may_retry(failure):
                    raise
                pause_s = failure.retry_after_s or self.plan.retry_pause_s
        raise CallFailed("gave_up")

    async def _send_once(self, line: Line, request: Request) -> messages.Receipt:
        response = await self.measured.send(line, calls.REPORT, request, due_at_s=self.measured.clock())
        return wire.decode(response.body, messages.Receipt)


def _may_retry(failure: CallFailed) -> bool:
    return failure.outcome in {
        "lost",
        "timeout",
        ProblemCode.REPORT_PENDING,
        ProblemCode.OVERLOADED,
        ProblemCode.NOT_READY,
    }
