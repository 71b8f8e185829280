"""A visit is one phone's check-in, model, training, offer and report, with the failures drawn for it.

The script follows the protocol as an SDK does: refusals are obeyed, and a report whose answer is unknown is
sent again, the same bytes, until the answer is known. Failures are drawn beforehand, so that the load is
the same whatever the server answers.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from keyflock_client_sim.device.installation import CODECS
from keyflock_load_tests.connection import Connection
from keyflock_load_tests.measured_calls import CallFailure, MeasuredCalls, request_of
from keyflock_load_tests.measurement import VISIT, Sample
from keyflock_load_tests.scenario import PhonePlan
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.problems import ProblemCode

APP_BUILD = 100
LOCALE = "en-US"

OpenConnection = Callable[[], AbstractAsyncContextManager[Connection]]
DeltaFor = Callable[[messages.Assignment], bytes]


@dataclass(slots=True)
class PhoneState:
    """The state of a phone between visits."""

    token: str
    examples: int
    #: The digest of the model that the phone has; it does not download that one again.
    model_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class VisitConditions:
    """The training time and the failures of one visit."""

    training_s: float = 0.0
    drops_out: bool = False
    loses_connection: bool = False

    @classmethod
    def drawn(cls, plan: PhonePlan, rng: random.Random) -> "VisitConditions":
        """Draw the next conditions; always with the same number of draws, so that plans stay comparable."""
        return cls(
            training_s=rng.expovariate(1.0) * plan.mean_training_s,
            drops_out=rng.random() < plan.drop_out_share,
            loses_connection=rng.random() < plan.lost_connection_share,
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """One phone's visit.

    Args:
        phone: The visiting phone.
        conditions: The visit's training time and failures.
        plan: The phone's timeouts and retries.
        delta_for: Returns an encoded delta that fits an assignment.
        open_connection: Opens a new connection.
        measured: Sends and measures the calls.
    """

    phone: PhoneState
    conditions: VisitConditions
    plan: PhonePlan
    delta_for: DeltaFor
    open_connection: OpenConnection
    measured: MeasuredCalls

    async def run(self, due_at_s: float) -> None:
        """Run the visit that was due at ``due_at_s``, and record it in the measurements."""
        measurements = self.measured.measurements
        try:
            ending = await self._run_steps(due_at_s)
        except CallFailure as failure:
            ending = f"failed: {failure.outcome}"
        except ConnectionError:
            ending = "failed: lost"
        measurements.endings[ending] += 1
        if ending == "reported":
            busy_from_s = due_at_s + self.conditions.training_s
            measurements.samples.append(Sample(VISIT, busy_from_s, due_at_s, self.measured.clock(), "ok"))

    async def _run_steps(self, due_at_s: float) -> str:
        async with self.open_connection() as connection:
            answer = await self._check_in(connection, due_at_s)
            if isinstance(answer, messages.Refusal):
                return "refused"
            await self._download(connection, answer)
            training_ends_at_s = self.measured.clock() + self.conditions.training_s
            await asyncio.sleep(self.conditions.training_s)
            if self.conditions.drops_out:
                return "dropped out"
            delta = self.delta_for(answer)
            action = await self._offer(connection, answer, len(delta), training_ends_at_s)
            if action is not messages.OfferAction.SEND:
                return f"told to {action}"
            return await self._deliver(connection, answer, delta)

    async def _check_in(self, connection: Connection, due_at_s: float) -> messages.CheckInAnswer:
        message = messages.CheckIn(
            protocol=messages.PROTOCOL,
            app_build=APP_BUILD,
            locale=LOCALE,
            examples=self.phone.examples,
            capabilities=messages.Capabilities(codecs=CODECS),
        )
        request = request_of(calls.CHECK_IN, self.phone.token, message=message)
        response = await self.measured.send(connection, calls.CHECK_IN, request, due_at_s=due_at_s)
        answer: messages.CheckInAnswer = wire.decode(response.body, messages.CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
        word = answer.reason if isinstance(answer, messages.Refusal) else "assignment"
        self.measured.measurements.check_ins[word] += 1
        return answer

    async def _download(self, connection: Connection, assignment: messages.Assignment) -> None:
        if assignment.model_digest == self.phone.model_digest:
            return
        request = request_of(calls.MODEL, self.phone.token, version=assignment.model_version)
        await self.measured.send(connection, calls.MODEL, request, due_at_s=self.measured.clock())
        self.phone.model_digest = assignment.model_digest

    async def _offer(
        self, connection: Connection, assignment: messages.Assignment, size_bytes: int, due_at_s: float
    ) -> messages.OfferAction:
        message = messages.Offer(size_bytes=size_bytes, model_version=assignment.model_version)
        request = request_of(calls.OFFER, self.phone.token, message=message, assignment=assignment)
        response = await self.measured.send(connection, calls.OFFER, request, due_at_s=due_at_s)
        return wire.decode(response.body, messages.OfferAnswer).action

    async def _deliver(self, connection: Connection, assignment: messages.Assignment, delta: bytes) -> str:
        report = messages.Report(
            delta=delta,
            examples=min(self.phone.examples, assignment.plan.max_examples),
            train_s=self.conditions.training_s,
            session_shape="-v[]+",
        )
        request = request_of(calls.REPORT, self.phone.token, message=report, assignment=assignment)
        self.measured.measurements.unsettled.add(assignment.id)
        try:
            receipt = await self._until_answered(connection, assignment, request)
        except CallFailure as failure:
            if failure.outcome == ProblemCode.ROUND_GONE:
                return "too late"
            raise
        self.measured.measurements.ack(assignment.id, is_duplicate=receipt.duplicate)
        return "reported"

    async def _until_answered(
        self, connection: Connection, assignment: messages.Assignment, request: Request
    ) -> messages.Receipt:
        """Return the receipt; the same bytes go again on new connections until the answer is known."""
        pause_s = self.plan.retry_pause_s
        if self.conditions.loses_connection:
            due_at_s = self.measured.clock()
            await self.measured.send_and_hang_up(connection, calls.REPORT, request, due_at_s=due_at_s)
        else:
            try:
                return await self._send_once(connection, request)
            except CallFailure as failure:
                if not _may_retry(failure):
                    self.measured.measurements.unsettled.discard(assignment.id)
                    raise
                pause_s = failure.retry_after_s or pause_s
        for _ in range(self.plan.max_retries):
            await asyncio.sleep(pause_s)
            try:
                async with self.open_connection() as again:
                    return await self._send_once(again, request)
            except CallFailure as failure:
                if not _may_retry(failure):
                    raise
                pause_s = failure.retry_after_s or self.plan.retry_pause_s
        raise CallFailure("gave_up")

    async def _send_once(self, connection: Connection, request: Request) -> messages.Receipt:
        response = await self.measured.send(connection, calls.REPORT, request, due_at_s=self.measured.clock())
        return wire.decode(response.body, messages.Receipt)


def _may_retry(failure: CallFailure) -> bool:
    return failure.outcome in {
        "lost",
        "timeout",
        ProblemCode.REPORT_PENDING,
        ProblemCode.OVERLOADED,
        ProblemCode.NOT_READY,
    }
