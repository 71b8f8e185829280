"""The device: a state machine that is told what happened and says what it wants next.

    effect = device.wants
    while True:
        event = ...                 # carry the effect out: wait, send, store or train
        effect = device.step(event, now_s)

It wants one thing at a time. Times are seconds on any clock that only moves forward (on a phone: since boot),
because a phone's calendar is not to be trusted and the protocol sends durations only.
"""

import hashlib
import random
from collections import deque
from typing import Final, assert_never

from keyflock_client_sim.device import answers, requests
from keyflock_client_sim.device import session as steps
from keyflock_client_sim.device.answers import Trouble
from keyflock_client_sim.device.backoff import Patience, within
from keyflock_client_sim.device.calling import Calling, Identity
from keyflock_client_sim.device.effects import Effect, Patch, Store, Train, Wait
from keyflock_client_sim.device.events import (
    Answered,
    CallLost,
    Event,
    Interrupted,
    PatchFailed,
    Stored,
    Trained,
    TrainingFailed,
    Woke,
)
from keyflock_client_sim.device.installation import Circumstances, Installation, LocalFacts
from keyflock_client_sim.device.local_rules import holds
from keyflock_client_sim.device.logbook import Logbook
from keyflock_client_sim.device.notices import Ending, Notice
from keyflock_client_sim.device.requests import Outgoing
from keyflock_client_sim.device.session import Session
from keyflock_client_sim.device.states import IllegalEvent, State, is_legal
from keyflock_client_sim.device.tally import Tally
from keyflock_server.protocol import messages
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.protocol.messages import FailureCause, OfferAction, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode

#: Models kept: the round's, and the one before for an assignment that comes again.
KEPT_MODELS: Final = 2
#: How long the answer to a report is asked for that the server has already.
PENDING_PATIENCE_S: Final = 3_600.0
#: Assignments remembered as done, so that none is done twice.
REMEMBERED_ASSIGNMENTS: Final = 16

_NEEDS_NEW_IDENTITY: Final = frozenset({ProblemCode.TOKEN_INVALID, ProblemCode.TOKEN_MISSING})


class Device:
    """One phone's side of the protocol.

    Args:
        installation: How it introduces itself.
        rng: Draws times in windows and pauses, nothing else.
        patience: What it does when the server does not say when to return.
        starts_at_s: When it wakes up first.
    Guarantees:
        It makes at most one report for an assignment, sends the same bytes every time, and does no assignment
        again that has ended. It always wants something, and an assignment ends at the latest when it expires,
        or an hour after the server has last said that the report waits there for others.
        An illegal event raises ``IllegalEvent`` and changes nothing.
    """

    def __init__(
        self,
        installation: Installation,
        rng: random.Random,
        *,
        patience: Patience | None = None,
        starts_at_s: float = 0.0,
    ) -> None:
        self.installation = installation
        self._rng = rng
        self._patience = patience or Patience()
        self._state = State.UNENROLLED
        self._wants: Effect = Wait(starts_at_s, when_idle=True)
        self._calling = Calling(self._patience, rng)
        self._session: Session | None = None
        #: What waits for the new token: where to go on, and with which call.
        self._put_off: tuple[State, Outgoing] | None = None
        #: The last one that the server named.
        self._window = self._patience.rest
        #: Digests of the models that are stored, newest first.
        self._kept: tuple[bytes, ...] = ()
        #: As of the last check-in.
        self._facts = LocalFacts()
        #: Words that had been typed when a report of training was acknowledged last.
        self._words_at_training = 0
        self._done: deque[AssignmentId] = deque(maxlen=REMEMBERED_ASSIGNMENTS)
        self._logbook = Logbook()

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def wants(self) -> Effect:
        """What it has asked for last."""
        return self._wants

    @property
    def tally(self) -> Tally:
        """What it has done so far."""
        return self._logbook.tally

    @property
    def session_shape(self) -> str:
        """What it went through in the assignment that it is busy with; empty between assignments."""
        return self._session.shape if self._session else ""

    @property
    def has_report_under_way(self) -> bool:
        """Whether it has a report to deliver, or does not know yet what became of one."""
        return self._session is not None and self._session.trained is not None

    def take_notices(self) -> tuple[Notice, ...]:
        """What happened since this was asked last, oldest first."""
        return self._logbook.take_notices()

    def step(self, event: Event, now_s: float) -> Effect:
        """Takes in what happened, and says what it wants next.

        Raises:
            IllegalEvent: fault of the driver; nothing was changed.
        """
        if not is_legal(self._state, self._wants, event):
            wanted = type(self._wants).__name__
            raise IllegalEvent(f"{type(event).__name__} to a device that is {self._state} and wants {wanted}")
        self._wants = self._react(event, now_s)
        return self._wants

    def _react(self, event: Event, now_s: float) -> Effect:
        match event:
            case Woke(circumstances):
                return self._wake(circumstances, now_s)
            case Answered(response):
                self.tally.bytes_down += len(response.body)
                return self._read(response, now_s)
            case CallLost():
                self._logbook.lost(self._calling.name)
                return self._pause(now_s)
            case Stored():
                if isinstance(self._wants, Store | Patch):
                    self._kept = (self._wants.digest, *self._kept)[:KEPT_MODELS]
                return self._train(self._busy())
            case PatchFailed():
                return self._download_whole("delta_refused")
            case Trained():
                return self._offer(event, now_s)
            case TrainingFailed(cause):
                return self._give_back(cause, steps.ERROR, now_s)
            case Interrupted():
                return self._interrupt(now_s)
            case _:
                assert_never(event)

    def _wake(self, circumstances: Circumstances, now_s: float) -> Effect:
        if self._state in (State.RESTING, State.CHECKING_IN):
            return self._check_in(circumstances, now_s)
        if self._calling.what is None:
            return self._call(State.UNENROLLED, requests.enrol(self.installation))
        if self._session and self._state is not State.REFRESHING and now_s >= self._session.expires_at_s:
            return self._end(Ending.EXPIRED, "", steps.ERROR, now_s)
        return self._send()

    def _interrupt(self, now_s: float) -> Effect:
        if self._state is State.CHECKING_IN:
            return self._rest(now_s)
        if self._state in (State.DOWNLOADING, State.TRAINING):
            return self._give_back(FailureCause.INTERRUPTED, steps.INTERRUPTED, now_s)
        return self._pause(now_s)  # what is finished is delivered later, the same bytes

    # Calls: begin one, send it again, put it off for a new token.

    def _call(self, state: State, what: Outgoing) -> Effect:
        self._state = state
        self._calling.begin(what)
        return self._send()

    def _send(self) -> Effect:
        send = self._calling.send(self._session.assignment.token if self._session else None)
        self._logbook.sent(len(send.request.body))
        return send

    def _pause(self, now_s: float, retry: ReturnWindow | None = None) -> Effect:
        """A pause before the same bytes go out again; the end of the assignment if it expires before."""
        until_s = now_s + self._calling.pause_s(retry)
        if self._session and self._state is not State.REFRESHING and until_s >= self._session.expires_at_s:
            return self._end(Ending.EXPIRED, "", steps.ERROR, now_s)
        return Wait(until_s, when_idle=self._session is None)

    def _refresh(self, state: State, what: Outgoing) -> Effect:
        self._put_off = (state, what)
        return self._call(State.REFRESHING, requests.enrol(self.installation))

    def _trouble(self, trouble: Trouble, now_s: float) -> Effect:
        """What to do when a call that shows the device's token brought no answer of its own."""
        self._logbook.trouble(self._calling.name, trouble.word)
        what = self._calling.what
        if trouble.code is ProblemCode.TOKEN_EXPIRED and what and not self._calling.has_refreshed:
            return self._refresh(self._state, what)
        if trouble.code in _NEEDS_NEW_IDENTITY:
            return self._disown(now_s)
        if trouble.code is ProblemCode.REPORT_PENDING and self._session:
            # The server has the report, whatever time the assignment had: the answer is worth waiting for.
            self._session.expires_at_s = max(self._session.expires_at_s, now_s + PENDING_PATIENCE_S)
        if trouble.may_retry or trouble.code is ProblemCode.TOKEN_EXPIRED:
            return self._pause(now_s, trouble.retry)
        if self._session is None:
            hopeless_s = self._patience.hopeless_s
            return self._rest(now_s, ReturnWindow(min_s=hopeless_s, max_s=1.5 * hopeless_s))
        if trouble.code is ProblemCode.ROUND_GONE:
            return self._end(Ending.GONE, trouble.word, steps.REJECTED, now_s)
        if self._state is State.DOWNLOADING:
            return self._give_back(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
        return self._end(Ending.REFUSED, trouble.word, steps.REJECTED, now_s)

    # Answers, by the state in which the call was made.

    def _read(self, response: Response, now_s: float) -> Effect:
        match self._state:
            case State.UNENROLLED | State.REFRESHING:
                return self._read_enrolment(answers.read(response, messages.Enrolment), now_s)
            case State.CHECKING_IN:
                return self._read_check_in(answers.read_check_in(response), now_s)
            case State.DOWNLOADING:
                return self._read_model(response, now_s)
            case State.OFFERING:
                return self._read_offer(answers.read(response, messages.OfferAnswer), now_s)
            case State.UPLOADING:
                return self._read_receipt(answers.read(response, messages.Receipt), now_s)
            case State.RETURNING:
                return self._read_noted(answers.read(response, messages.Noted), now_s)
            case _:
                raise AssertionError(f"no call is made while {self._state}")

    def _read_enrolment(self, answer: messages.Enrolment | Trouble, now_s: float) -> Effect:
        if isinstance(answer, Trouble):
            self._logbook.trouble(self._calling.name, answer.word)
            if answer.may_retry:
                return self._pause(now_s, answer.retry)
            if self._state is State.REFRESHING:
                return self._disown(now_s)
            return Wait(now_s + self._patience.hopeless_s * self._rng.uniform(1.0, 1.5), when_idle=True)
        self._calling.identity = Identity.of(answer, now_s, self._patience.refresh_margin_s)
        self._logbook.enrolled(answer.device, is_refresh=self._put_off is not None)
        if self._put_off is None:
            return self._rest(now_s, answer.return_window)
        (state, what), self._put_off = self._put_off, None
        effect = self._call(state, what)
        self._calling.has_refreshed = True
        return effect

    def _read_check_in(self, answer: messages.CheckInAnswer | Trouble, now_s: float) -> Effect:
        match answer:
            case Trouble():
                return self._trouble(answer, now_s)
            case messages.Refusal():
                self._logbook.turned_away(answer)
                return self._rest(now_s, answer.return_window)
            case messages.Assignment():
                if answer.id in self._done:
                    return self._rest(now_s)
                return self._accept(answer, now_s)
            case _:
                assert_never(answer)

    def _read_model(self, response: Response, now_s: float) -> Effect:
        session, body = self._busy(), response.body
        what, wanted = self._calling.what, session.assignment.model_digest
        if what and what.headers and response.status in (226, 304):
            return self._read_delta(response, session)
        if response.status != 200:
            return self._trouble(answers.trouble(response), now_s)
        if len(body) > self.installation.capabilities.max_download_bytes:
            return self._give_back(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
        digest = hashlib.sha256(body).digest()
        if digest != wanted:
            self._logbook.trouble(self._calling.name, "corrupt")
            session.damaged_downloads += 1
            if session.damaged_downloads >= self._patience.max_damaged_downloads:
                return self._give_back(FailureCause.DOWNLOAD_FAILED, steps.ERROR, now_s)
            return self._pause(now_s)
        return Store(digest, body, forget=self._kept[KEPT_MODELS - 1 :])

    def _read_delta(self, response: Response, session: Session) -> Effect:
        """A delta from one of the models that are stored; whatever else it is, the whole is asked for."""
        wanted, content = session.assignment.model_digest, session.assignment.content_digest
        base = answers.delta_base(response, wanted)
        if content is None or base not in self._kept:
            return self._download_whole("no_such_delta")
        return Patch(
            digest=wanted,
            base=base,
            delta=response.body,
            content_digest=content,
            forget=self._kept[KEPT_MODELS - 1 :],
        )

    def _download_whole(self, word: str) -> Effect:
        self._logbook.trouble(self._calling.name, word)
        return self._call(State.DOWNLOADING, requests.model(self._busy().assignment))

    def _read_offer(self, answer: messages.OfferAnswer | Trouble, now_s: float) -> Effect:
        if isinstance(answer, Trouble):
            return self._trouble(answer, now_s)
        match answer.action:
            case OfferAction.SEND:
                return self._upload()
            case OfferAction.DROP:
                return self._end(Ending.DROPPED, answer.detail, steps.REJECTED, now_s, answer.return_window)
            case OfferAction.REBASE:
                return self._end(Ending.REBASED, answer.detail, steps.REJECTED, now_s, answer.return_window)
            case _:
                assert_never(answer.action)

    def _read_receipt(self, answer: messages.Receipt | Trouble, now_s: float) -> Effect:
        if isinstance(answer, Trouble):
            return self._trouble(answer, now_s)
        session = self._busy()
        if not answer.counted:
            return self._end(Ending.REFUSED, "not_counted", steps.REJECTED, now_s, answer.return_window)
        session.note(steps.ACKED)
        self._logbook.acked(session, session.result(), answer)
        if not requests.is_personal(session.assignment):
            self._words_at_training = self._facts.words_typed
        self._done.append(session.assignment.id)
        return self._rest(now_s, answer.return_window)

    def _read_noted(self, answer: messages.Noted | Trouble, now_s: float) -> Effect:
        if isinstance(answer, Trouble):
            return self._trouble(answer, now_s)
        return self._end(Ending.RETURNED, self._busy().cause, "", now_s, answer.return_window)

    # An assignment, from its acceptance to its end.

    def _check_in(self, circumstances: Circumstances, now_s: float) -> Effect:
        """Also after a pause: the phone says how it is now, not how it was."""
        self._facts = circumstances.facts
        check_in = requests.check_in(self.installation, circumstances)
        if self._state is State.CHECKING_IN:
            self._calling.what = check_in
            return self._send()
        identity = self._calling.identity
        if identity is None or now_s >= identity.refresh_at_s:
            return self._refresh(State.CHECKING_IN, check_in)
        return self._call(State.CHECKING_IN, check_in)

    def _accept(self, assignment: messages.Assignment, now_s: float) -> Effect:
        self._logbook.assigned(assignment)
        self._session = Session(assignment, now_s + assignment.expires_in_s)
        is_known = assignment.task_kind in self.installation.capabilities.tasks
        if not is_known or requests.is_personal(assignment) is not (assignment.personalising is not None):
            return self._give_back(FailureCause.NOT_ELIGIBLE, steps.ERROR, now_s)
        rules = assignment.device_rules
        if rules is not None and not holds(rules, self._facts, self._words_at_training):
            return self._give_back(FailureCause.NOT_ELIGIBLE, steps.ERROR, now_s)
        if assignment.model_digest in self._kept:
            return self._train(self._session)
        return self._call(State.DOWNLOADING, requests.model(assignment, self._kept))

    def _train(self, session: Session) -> Effect:
        self._state = State.TRAINING
        self._calling.end()
        session.note(steps.HAS_MODEL)
        session.note(steps.TRAINING)
        return Train.of(session.assignment, session.expires_at_s)

    def _offer(self, trained: Trained, now_s: float) -> Effect:
        session = self._busy()
        if trained.examples < 1:
            return self._give_back(FailureCause.NO_EXAMPLES, steps.ERROR, now_s)
        session.note(steps.TRAINED)
        if now_s >= session.expires_at_s:
            return self._end(Ending.EXPIRED, "", steps.ERROR, now_s)
        session.trained = trained
        return self._call(State.OFFERING, requests.offer(session.assignment, trained))

    def _upload(self) -> Effect:
        session = self._busy()
        session.note(steps.UPLOADING)
        report = requests.report(session.assignment, session.result(), session.shape)
        return self._call(State.UPLOADING, report)

    def _give_back(self, cause: FailureCause, step: str, now_s: float) -> Effect:
        session = self._busy()
        if now_s >= session.expires_at_s:
            return self._end(Ending.EXPIRED, cause, step, now_s)
        session.note(step)
        session.cause = cause
        return self._call(State.RETURNING, requests.failure(session.assignment, cause, session.shape))

    def _end(
        self, ending: Ending, detail: str, step: str, now_s: float, window: ReturnWindow | None = None
    ) -> Effect:
        self._close(self._busy(), ending, detail, step)
        return self._rest(now_s, window)

    def _disown(self, now_s: float) -> Effect:
        """The server does not know this device: it enrols as another one, after a pause."""
        if self._session:
            self._close(self._session, Ending.DISOWNED, "", steps.ERROR)
        self._calling.identity = self._session = self._put_off = None
        self._calling.end()
        self._state = State.UNENROLLED
        return self._pause(now_s)

    def _close(self, session: Session, ending: Ending, detail: str, step: str) -> None:
        session.note(step)
        self._logbook.ended(session, ending, detail)
        if ending not in (Ending.REBASED, Ending.RETURNED):
            self._done.append(session.assignment.id)

    def _rest(self, now_s: float, window: ReturnWindow | None = None) -> Effect:
        """Nothing to do until a time in the window; without one, in the last that the server named."""
        self._window = window or self._window
        self._state = State.RESTING
        self._session = None
        self._calling.end()
        return Wait(now_s + within(self._window, self._rng), when_idle=True)

    def _busy(self) -> Session:
        if self._session is None:
            raise AssertionError(f"no assignment while {self._state}")
        return self._session
