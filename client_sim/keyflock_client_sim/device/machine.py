"""The device is a state machine: it gets an event and returns the effect that it asks for next.

    effect = device.effect
    while True:
        event = ...                 # carry the effect out: wait, send, store or train
        effect = device.step(event, now_s)

It asks for one effect at a time. Times are seconds on any clock that only moves forward (on a phone: since
boot), because a phone's calendar is not to be trusted and the protocol sends durations only.
"""

import hashlib
import random
from typing import assert_never

from keyflock_client_sim.device import input_events, requests, responses
from keyflock_client_sim.device import session as steps
from keyflock_client_sim.device.backoff import MAX_PENDING_S, RetryPolicy, draw_within
from keyflock_client_sim.device.call_attempt import CallAttempt, Identity
from keyflock_client_sim.device.counters import Counters
from keyflock_client_sim.device.device_events import DeviceEvent, EndReason
from keyflock_client_sim.device.device_log import DeviceLog
from keyflock_client_sim.device.effects import Effect, PatchModel, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import InputEvent, Trained
from keyflock_client_sim.device.installation import DeviceStatus, Installation
from keyflock_client_sim.device.memory import DeviceMemory
from keyflock_client_sim.device.responses import CallError
from keyflock_client_sim.device.session import Session
from keyflock_client_sim.device.states import DeviceState, require_legal
from keyflock_server.protocol import messages
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import FailureCause, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode


class Device:
    """One phone's side of the protocol.

    Args:
        installation: How the device introduces itself.
        rng: Draws times in windows and pauses, nothing else.
        retry_policy: How long it waits when the server does not say when to return.
        starts_at_s: When it wakes up first.
    Guarantees:
        It makes at most one report for an assignment, sends the same bytes every time, and does no assignment
        again that has ended. It always asks for an effect. An assignment ends at the latest when it expires,
        or an hour after the server has last answered that the report waits there for others.
        An illegal event raises ``IllegalTransition`` and changes nothing.
    """

    def __init__(
        self,
        installation: Installation,
        rng: random.Random,
        *,
        retry_policy: RetryPolicy | None = None,
        starts_at_s: float = 0.0,
    ) -> None:
        self.installation = installation
        self._rng = rng
        self._retry_policy = retry_policy or RetryPolicy()
        self._state = DeviceState.UNENROLLED
        self._effect: Effect = Wait(starts_at_s, when_idle=True)
        self._call_attempt = CallAttempt(self._retry_policy, rng)
        self._session: Session | None = None
        #: The state and the call that the device goes on with once it has a new token.
        self._deferred_call: tuple[DeviceState, requests.OutgoingCall] | None = None
        self._memory = DeviceMemory(self._retry_policy.default_return_window)
        self._log = DeviceLog()

    @property
    def state(self) -> DeviceState:
        """Return the device's state."""
        return self._state

    @property
    def effect(self) -> Effect:
        """Return the effect that the device has asked for last."""
        return self._effect

    @property
    def counters(self) -> Counters:
        """Return the counters of what the device has done so far."""
        return self._log.counters

    @property
    def session_shape(self) -> str:
        """Return the steps of the assignment that the device is busy with; empty between assignments."""
        return self._session.shape if self._session else ""

    @property
    def has_unsettled_report(self) -> bool:
        """Return whether it has a report to deliver, or does not know yet whether one was counted."""
        return self._session is not None and self._session.trained is not None

    def take_events(self) -> tuple[DeviceEvent, ...]:
        """Return the events since the last call, oldest first."""
        return self._log.take_events()

    def step(self, event: InputEvent, now_s: float) -> Effect:
        """Accept an event, and return the effect that the device asks for next.

        Raises:
            IllegalTransition: fault of the driver; nothing was changed.
        """
        require_legal(self._state, self._effect, event)
        self._effect = self._react(event, now_s)
        return self._effect

    def _react(self, event: InputEvent, now_s: float) -> Effect:
        match event:
            case input_events.Woke(status):
                return self._wake(status, now_s)
            case input_events.Answered(response):
                self.counters.bytes_down += len(response.body)
                return self._read_response(response, now_s)
            case input_events.CallLost():
                self._log.call_lost(self._call_attempt.name)
                return self._pause(now_s)
            case input_events.ModelStored():
                if isinstance(self._effect, StoreModel | PatchModel):
                    self._memory.add_model(self._effect.digest)
                return self._download_or_train(self._current_session())
            case input_events.PatchFailed():
                return self._download_full_model("delta_refused")
            case input_events.Trained():
                return self._offer(event, now_s)
            case input_events.TrainingFailed(cause):
                return self._return_assignment(cause, steps.ERROR, now_s)
            case input_events.Interrupted():
                return self._interrupt(now_s)
            case _:
                assert_never(event)

    def _wake(self, status: DeviceStatus, now_s: float) -> Effect:
        if self._state in (DeviceState.RESTING, DeviceState.CHECKING_IN):
            return self._check_in(status, now_s)
        if self._call_attempt.outgoing is None:
            return self._call(DeviceState.UNENROLLED, requests.enrol(self.installation))
        if (
            self._session
            and self._state is not DeviceState.REFRESHING
            and now_s >= self._session.expires_at_s
        ):
            return self._end(EndReason.EXPIRED, "", steps.ERROR, now_s)
        return self._send()

    def _interrupt(self, now_s: float) -> Effect:
        if self._state is DeviceState.CHECKING_IN:
            return self._rest(now_s)
        if self._state in (DeviceState.DOWNLOADING, DeviceState.TRAINING):
            return self._return_assignment(FailureCause.INTERRUPTED, steps.INTERRUPTED, now_s)
        return self._pause(now_s)  # what is finished is delivered later, the same bytes

    def _call(self, state: DeviceState, outgoing: requests.OutgoingCall) -> Effect:
        self._state = state
        self._call_attempt.begin(outgoing)
        return self._send()

    def _send(self) -> Effect:
        send = self._call_attempt.send(self._session.assignment.token if self._session else None)
        self._log.call_sent(len(send.request.body))
        return send

    def _pause(self, now_s: float, retry: ReturnWindow | None = None) -> Effect:
        """Pause before the same bytes go out again; end the assignment if it expires before."""
        until_s = now_s + self._call_attempt.pause_s(retry)
        if (
            self._session
            and self._state is not DeviceState.REFRESHING
            and until_s >= self._session.expires_at_s
        ):
            return self._end(EndReason.EXPIRED, "", steps.ERROR, now_s)
        return Wait(until_s, when_idle=self._session is None)

    def _refresh(self, state: DeviceState, outgoing: requests.OutgoingCall) -> Effect:
        self._deferred_call = (state, outgoing)
        return self._call(DeviceState.REFRESHING, requests.enrol(self.installation))

    def _handle_error(self, error: CallError, now_s: float) -> Effect:
        """Decide what follows when a call that shows the device's token got an error."""
        self._log.call_failed(self._call_attempt.name, error.label)
        outgoing = self._call_attempt.outgoing
        if error.code is ProblemCode.TOKEN_EXPIRED and outgoing and not self._call_attempt.has_refreshed:
            return self._refresh(self._state, outgoing)
        if error.needs_new_identity:
            return self._reset_identity(now_s)
        is_report = self._state is DeviceState.UPLOADING
        if error.code is ProblemCode.REPORT_PENDING and is_report and self._session:
            # The server has the report, whatever time the assignment had: the answer is worth waiting for.
            self._session.expires_at_s = max(self._session.expires_at_s, now_s + MAX_PENDING_S)
        if error.may_retry or error.code is ProblemCode.TOKEN_EXPIRED:
            return self._pause(now_s, error.retry_window)
        if self._session is None:
            delay_s = self._retry_policy.permanent_failure_delay_s
            return self._rest(now_s, ReturnWindow(min_s=delay_s, max_s=1.5 * delay_s))
        if error.code is ProblemCode.ROUND_GONE:
            return self._end(EndReason.ROUND_OVER, error.label, steps.REJECTED, now_s)
        if self._state is DeviceState.DOWNLOADING:
            return self._return_assignment(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
        return self._end(EndReason.REFUSED, error.label, steps.REJECTED, now_s)

    def _read_response(self, response: Response, now_s: float) -> Effect:
        match self._state:
            case DeviceState.UNENROLLED | DeviceState.REFRESHING:
                return self._read_enrolment(responses.read(response, messages.Enrolment), now_s)
            case DeviceState.CHECKING_IN:
                return self._read_check_in(responses.read_check_in(response), now_s)
            case DeviceState.DOWNLOADING:
                return self._read_model(response, now_s)
            case DeviceState.OFFERING:
                return self._read_offer(responses.read(response, messages.OfferAnswer), now_s)
            case DeviceState.UPLOADING:
                return self._read_receipt(responses.read(response, messages.Receipt), now_s)
            case DeviceState.RETURNING:
                return self._read_failure_ack(responses.read(response, messages.FailureAck), now_s)
            case _:
                raise AssertionError(f"no call is made while {self._state}")

    def _read_enrolment(self, answer: messages.Enrolment | CallError, now_s: float) -> Effect:
        if isinstance(answer, CallError):
            self._log.call_failed(self._call_attempt.name, answer.label)
            if answer.may_retry:
                return self._pause(now_s, answer.retry_window)
            if self._state is DeviceState.REFRESHING:
                return self._reset_identity(now_s)
            return Wait(
                now_s + self._retry_policy.permanent_failure_delay_s * self._rng.uniform(1.0, 1.5),
                when_idle=True,
            )
        self._call_attempt.identity = Identity.of(answer, now_s, self._retry_policy.refresh_margin_s)
        self._log.enrolled(answer.device, is_refresh=self._deferred_call is not None)
        if self._deferred_call is None:
            return self._rest(now_s, answer.return_window)
        (state, outgoing), self._deferred_call = self._deferred_call, None
        effect = self._call(state, outgoing)
        self._call_attempt.has_refreshed = True
        return effect

    def _read_check_in(self, answer: messages.CheckInAnswer | CallError, now_s: float) -> Effect:
        match answer:
            case CallError():
                return self._handle_error(answer, now_s)
            case messages.Refusal():
                self._log.rejected(answer)
                return self._rest(now_s, answer.return_window)
            case messages.Assignment():
                if answer.id in self._memory.finished_assignments:
                    return self._rest(now_s)
                return self._accept(answer, now_s)
            case _:
                assert_never(answer)

    def _read_model(self, response: Response, now_s: float) -> Effect:
        session, body = self._current_session(), response.body
        outgoing, wanted = self._call_attempt.outgoing, session.wanted_model()
        if outgoing and outgoing.headers and response.status in (226, 304):
            delta = responses.read_delta(response, wanted, self._memory)
            return delta or self._download_full_model("no_such_delta")
        if response.status != 200:
            return self._handle_error(responses.error_of(response), now_s)
        if len(body) > self.installation.capabilities.max_download_bytes:
            return self._return_assignment(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
        digest = hashlib.sha256(body).digest()
        if digest != wanted.digest:
            self._log.call_failed(self._call_attempt.name, "corrupt")
            session.damaged_downloads += 1
            if session.damaged_downloads >= self._retry_policy.max_damaged_downloads:
                return self._return_assignment(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
            return self._pause(now_s)
        return StoreModel(digest, body, evicted=self._memory.evicted_models())

    def _download_full_model(self, error: str) -> Effect:
        self._log.call_failed(self._call_attempt.name, error)
        wanted = self._current_session().wanted_model()
        return self._call(DeviceState.DOWNLOADING, requests.model(wanted))

    def _read_offer(self, answer: messages.OfferAnswer | CallError, now_s: float) -> Effect:
        if isinstance(answer, CallError):
            return self._handle_error(answer, now_s)
        match answer.action:
            case messages.OfferAction.SEND:
                return self._upload()
            case messages.OfferAction.DROP:
                return self._end(
                    EndReason.DROPPED, answer.detail, steps.REJECTED, now_s, answer.return_window
                )
            case messages.OfferAction.REBASE:
                return self._end(
                    EndReason.REBASED, answer.detail, steps.REJECTED, now_s, answer.return_window
                )
            case _:
                assert_never(answer.action)

    def _read_receipt(self, answer: messages.Receipt | CallError, now_s: float) -> Effect:
        if isinstance(answer, CallError):
            return self._handle_error(answer, now_s)
        session = self._current_session()
        if not answer.counted:
            return self._end(EndReason.REFUSED, "not_counted", steps.REJECTED, now_s, answer.return_window)
        session.append_step(steps.ACKED)
        self._log.report_acked(session, session.result(), answer)
        if session.assignment.task_kind is messages.TaskKind.TRAIN:
            self._memory.words_at_last_training = self._memory.facts.words_typed
        self._memory.finished_assignments.append(session.assignment.id)
        return self._rest(now_s, answer.return_window)

    def _read_failure_ack(self, answer: messages.FailureAck | CallError, now_s: float) -> Effect:
        if isinstance(answer, CallError):
            return self._handle_error(answer, now_s)
        return self._end(EndReason.RETURNED, self._current_session().cause, "", now_s, answer.return_window)

    def _check_in(self, status: DeviceStatus, now_s: float) -> Effect:
        """Check in, also after a pause: the phone reports its status of now, not of before."""
        self._memory.facts = status.facts
        check_in = requests.check_in(self.installation, status)
        if self._state is DeviceState.CHECKING_IN:
            self._call_attempt.outgoing = check_in
            return self._send()
        identity = self._call_attempt.identity
        if identity is None or now_s >= identity.refresh_at_s:
            return self._refresh(DeviceState.CHECKING_IN, check_in)
        return self._call(DeviceState.CHECKING_IN, check_in)

    def _accept(self, assignment: messages.Assignment, now_s: float) -> Effect:
        self._log.assigned(assignment)
        self._session = Session(assignment, now_s + assignment.expires_in_s)
        if not self._memory.may_take(assignment, self.installation.capabilities):
            return self._return_assignment(FailureCause.NOT_ELIGIBLE, steps.ERROR, now_s)
        return self._download_or_train(self._session)

    def _download_or_train(self, session: Session) -> Effect:
        session.downloading = self._memory.next_download(session.assignment)
        if session.downloading is not None:
            outgoing = requests.model(session.downloading, self._memory.stored_models)
            return self._call(DeviceState.DOWNLOADING, outgoing)
        self._state = DeviceState.TRAINING
        self._call_attempt.end()
        session.append_step(steps.HAS_MODEL)
        session.append_step(steps.TRAINING)
        return Train.of(session.assignment, session.expires_at_s)

    def _offer(self, trained: Trained, now_s: float) -> Effect:
        session = self._current_session()
        if trained.examples < 1:
            return self._return_assignment(FailureCause.NO_EXAMPLES, steps.ERROR, now_s)
        session.append_step(steps.TRAINED)
        if now_s >= session.expires_at_s:
            return self._end(EndReason.EXPIRED, "", steps.ERROR, now_s)
        session.trained = trained
        return self._call(DeviceState.OFFERING, requests.offer(session.assignment, trained))

    def _upload(self) -> Effect:
        session = self._current_session()
        session.append_step(steps.UPLOADING)
        report = requests.report(session.assignment, session.result(), session.shape)
        return self._call(DeviceState.UPLOADING, report)

    def _return_assignment(self, cause: FailureCause, step: str, now_s: float) -> Effect:
        session = self._current_session()
        if now_s >= session.expires_at_s:
            return self._end(EndReason.EXPIRED, cause, step, now_s)
        session.append_step(step)
        session.cause = cause
        return self._call(DeviceState.RETURNING, requests.failure(session.assignment, cause, session.shape))

    def _end(
        self, reason: EndReason, detail: str, step: str, now_s: float, window: ReturnWindow | None = None
    ) -> Effect:
        self._close_session(self._current_session(), reason, detail, step)
        return self._rest(now_s, window)

    def _reset_identity(self, now_s: float) -> Effect:
        """Forget the identity that the server does not know; the device enrols anew after a pause."""
        if self._session:
            self._close_session(self._session, EndReason.IDENTITY_RESET, "", steps.ERROR)
        self._call_attempt.identity = self._session = self._deferred_call = None
        self._call_attempt.end()
        self._state = DeviceState.UNENROLLED
        return self._pause(now_s)

    def _close_session(self, session: Session, reason: EndReason, detail: str, step: str) -> None:
        session.append_step(step)
        self._log.assignment_ended(session, reason, detail)
        if reason not in (EndReason.REBASED, EndReason.RETURNED):
            self._memory.finished_assignments.append(session.assignment.id)

    def _rest(self, now_s: float, window: ReturnWindow | None = None) -> Effect:
        """Rest until a time in the window; without one, in the last that the server named."""
        self._memory.return_window = window or self._memory.return_window
        self._state = DeviceState.RESTING
        self._session = None
        self._call_attempt.end()
        return Wait(now_s + draw_within(self._memory.return_window, self._rng), when_idle=True)

    def _current_session(self) -> Session:
        if self._session is None:
            raise AssertionError(f"no assignment while {self._state}")
        return self._session
