"""A visit is one phone's check-in, model, training, offer and report, with the failures drawn for it.

The script follows the protocol as an SDK does: refusals are obeyed, and a call whose answer is unknown is
sent again, the same bytes, until the answer is known. Failures are drawn beforehand, so that the load is
the same whatever the server answers.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from keyflock_client_sim.device.installation import CODECS
from keyflock_load_tests.connection import Connection
from keyflock_load_tests.measured_calls import CallFailure, MeasuredCalls, request_of
from keyflock_load_tests.measurement import VISIT, Sample
from keyflock_load_tests.scenario import PhonePlan
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Call, Request, Response
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
    #: The assignments whose reports were acknowledged under this enrolment.
    acked: list[str] = field(default_factory=list)
    #: Whether its last visit has not ended yet. A phone is in one visit at a time: two would hold the same
    #: assignment, and the same flush would acknowledge both as new.
    is_visiting: bool = False


@dataclass(frozen=True, slots=True)
class VisitConditions:
    """The training time and the failures of one visit, and what the phone does beside its work."""

    training_s: float = 0.0
    drops_out: bool = False
    loses_connection: bool = False
    gives_back: bool = False
    enrols: bool = False
    refreshes: bool = False
    is_forgotten: bool = False

    @classmethod
    def drawn(cls, plan: PhonePlan, rng: random.Random) -> "VisitConditions":
        """Draw the next conditions; always with the same number of draws, so that plans stay comparable."""
        return cls(
            training_s=rng.expovariate(1.0) * plan.mean_training_s,
            drops_out=rng.random() < plan.drop_out_share,
            loses_connection=rng.random() < plan.lost_connection_share,
            gives_back=rng.random() < plan.failure_share,
            enrols=rng.random() < plan.enrol_share,
            refreshes=rng.random() < plan.refresh_share,
            is_forgotten=rng.random() < plan.forget_share,
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """One phone's visit.

    Args:
        phone: The visiting phone.
        conditions: The visit's training time and failures.
        plan: The phone's timeouts and retries.
        population: The population that the phone enrols in.
        delta_for: Returns an encoded delta that fits an assignment.
        open_connection: Opens a new connection.
        measured: Sends and measures the calls.
    """

    phone: PhoneState
    conditions: VisitConditions
    plan: PhonePlan
    population: str
    delta_for: DeltaFor
    open_connection: OpenConnection
    measured: MeasuredCalls

    async def run(self, due_at_s: float) -> None:
        """Run the visit that was due at ``due_at_s``, and record it in the measurements."""
        measurements = self.measured.measurements
        try:
            async with self.open_connection() as connection:
                due_at_s = await self._enrol(connection, due_at_s)
                ending = await self._run_steps(connection, due_at_s)
                if self.conditions.is_forgotten:
                    await self._forget(connection)
        except CallFailure as failure:
            ending = f"failed: {failure.outcome}"
        except ConnectionError:
            ending = "failed: lost"
        measurements.endings[ending] += 1
        if ending == "reported":
            busy_from_s = due_at_s + self.conditions.training_s
            name = VISIT + self.measured.suffix
            measurements.samples.append(Sample(name, busy_from_s, due_at_s, self.measured.clock(), "ok"))

    async def _enrol(self, connection: Connection, due_at_s: float) -> float:
        """Get a token if the phone has none or wants a new one; return when the check-in is due."""
        if self.conditions.enrols or not self.phone.token:
            self.phone.acked.clear()  # the device of the old enrolment stays as it is
            token = ""
        elif self.conditions.refreshes:
            token = self.phone.token
        else:
            return due_at_s
        request = enrolment_request(self.population, token)
        response = await self._answer(connection, calls.ENROL, request, due_at_s=due_at_s)
        self.phone.token = wire.decode(response.body, messages.Enrolment).token
        return self.measured.clock()

    async def _run_steps(self, connection: Connection, due_at_s: float) -> str:
        answer = await self._check_in(connection, due_at_s)
        if isinstance(answer, messages.Refusal):
            return "refused"
        await self._download(connection, answer)
        training_ends_at_s = self.measured.clock() + self.conditions.training_s
        await asyncio.sleep(self.conditions.training_s)
        if self.conditions.drops_out:
            return "dropped out"
        if self.conditions.gives_back:
            return await self._give_back(connection, answer, training_ends_at_s)
        delta = self.delta_for(answer)
        action = await self._offer(connection, answer, len(delta), training_ends_at_s)
        if action is not messages.OfferAction.SEND:
            return f"told to {action}"
        return await self._deliver(connection, answer, delta)

    async def _check_in(self, connection: Connection, due_at_s: float) -> messages.CheckInAnswer:
        request = check_in_request(self.phone)
        response = await self._answer(connection, calls.CHECK_IN, request, due_at_s=due_at_s)
        answer: messages.CheckInAnswer = wire.decode(response.body, messages.CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
        word = answer.reason.value if isinstance(answer, messages.Refusal) else "assignment"
        self.measured.measurements.check_ins[word] += 1
        return answer

    async def _download(self, connection: Connection, assignment: messages.Assignment) -> None:
        if assignment.model_digest == self.phone.model_digest:
            return
        request = request_of(calls.MODEL, self.phone.token, version=assignment.model_version)
        await self._answer(connection, calls.MODEL, request, due_at_s=self.measured.clock())
        self.phone.model_digest = assignment.model_digest

    async def _give_back(
        self, connection: Connection, assignment: messages.Assignment, due_at_s: float
    ) -> str:
        message = messages.Failure(cause=messages.FailureCause.TRAINING_FAILED, session_shape="-v[*")
        request = request_of(calls.FAILURE, self.phone.token, message=message, assignment=assignment)
        await self._answer(connection, calls.FAILURE, request, due_at_s=due_at_s)
        return "gave back"

    async def _offer(
        self, connection: Connection, assignment: messages.Assignment, size_bytes: int, due_at_s: float
    ) -> messages.OfferAction:
        message = messages.Offer(size_bytes=size_bytes, model_version=assignment.model_version)
        request = request_of(calls.OFFER, self.phone.token, message=message, assignment=assignment)
        response = await self._answer(connection, calls.OFFER, request, due_at_s=due_at_s)
        return wire.decode(response.body, messages.OfferAnswer).action

    async def _deliver(self, connection: Connection, assignment: messages.Assignment, delta: bytes) -> str:
        """Send the report until its answer is known, and keep the books of receipts."""
        request = report_request(self.phone, assignment, delta, self.conditions.training_s)
        receipts = self.measured.measurements.receipts
        receipts.send(assignment.id)
        may_be_counted = self.conditions.loses_connection
        if may_be_counted:
            due_at_s = self.measured.clock()
            await self.measured.send_and_hang_up(connection, calls.REPORT, request, due_at_s=due_at_s)
        try:
            response = await self._answer(
                connection, calls.REPORT, request, due_at_s=self.measured.clock(), is_cut=may_be_counted
            )
        except CallFailure as failure:
            if failure.was_first and not failure.may_retry:
                receipts.refuse(assignment.id)
            if failure.outcome == ProblemCode.ROUND_GONE:
                return "too late"
            raise
        is_duplicate = wire.decode(response.body, messages.Receipt).duplicate
        receipts.ack(assignment.id, is_duplicate=is_duplicate)
        self.phone.acked.append(assignment.id)
        return "reported"

    async def _forget(self, connection: Connection) -> None:
        request = request_of(calls.FORGET, self.phone.token)
        # Whatever the answer, the rows may be gone from now on.
        self.measured.measurements.forgotten.update(self.phone.acked)
        self.phone.acked.clear()
        await self._answer(connection, calls.FORGET, request, due_at_s=self.measured.clock())
        self.phone.token = ""

    async def _answer(
        self,
        connection: Connection,
        call: Call,
        request: Request,
        *,
        due_at_s: float,
        is_cut: bool = False,
    ) -> Response:
        """Return the answer; the same bytes go again on new connections until it is known.

        Args:
            connection: The visit's connection.
            call: Which call it is.
            request: What to send.
            due_at_s: When the first attempt was due; a further one is due after its pause.
            is_cut: Whether the first attempt has been made, and its connection was cut.
        Raises:
            CallFailure: the server refuses, or all attempts failed.
        """
        pause_s = self.plan.retry_pause_s
        if not is_cut:
            try:
                return await self.measured.send(connection, call, request, due_at_s=due_at_s)
            except CallFailure as failure:
                if not failure.may_retry:
                    failure.was_first = True
                    raise
                pause_s = failure.retry_after_s or pause_s
        for _ in range(self.plan.max_retries):
            await asyncio.sleep(pause_s)
            try:
                async with self.open_connection() as again:
                    return await self.measured.send(again, call, request, due_at_s=self.measured.clock())
            except CallFailure as failure:
                if not failure.may_retry:
                    raise
                pause_s = failure.retry_after_s or self.plan.retry_pause_s
        raise CallFailure("gave_up")


def enrolment_request(population: str, token: str = "") -> Request:
    """Return the request of a phone that enrols, or with its old token refreshes that."""
    message = messages.EnrolRequest(
        protocol=messages.PROTOCOL, population=population, app_build=APP_BUILD, locale=LOCALE
    )
    return request_of(calls.ENROL, token, message=message)


def check_in_request(phone: PhoneState) -> Request:
    """Return the request of a phone that asks for work."""
    message = messages.CheckIn(
        protocol=messages.PROTOCOL,
        app_build=APP_BUILD,
        locale=LOCALE,
        examples=phone.examples,
        capabilities=messages.Capabilities(codecs=CODECS),
    )
    return request_of(calls.CHECK_IN, phone.token, message=message)


def report_request(
    phone: PhoneState, assignment: messages.Assignment, delta: bytes, training_s: float
) -> Request:
    """Return the request of a phone that reports."""
    report = messages.Report(
        delta=delta,
        examples=min(phone.examples, assignment.plan.max_examples),
        train_s=training_s,
        session_shape="-v[]+",
    )
    return request_of(calls.REPORT, phone.token, message=report, assignment=assignment)
