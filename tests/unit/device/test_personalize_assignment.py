"""A device that is asked to personalise: it reports evidence alone, and says when it cannot."""

import random

import msgspec
import pytest

from keyflock_client_sim.device.device_events import AssignmentEnded, EndReason
from keyflock_client_sim.device.effects import Effect, Send, Train, Wait
from keyflock_client_sim.device.input_events import Answered, InputEvent, ModelStored, Trained, Woke
from keyflock_client_sim.device.installation import DeviceStatus, Installation, LocalFacts
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.testing.scripted_server import success_response
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    Enrolment,
    Failure,
    FailureAck,
    FailureCause,
    OfferAction,
    OfferAnswer,
    Receipt,
    Report,
    ReturnWindow,
    TaskKind,
)
from keyflock_server.protocol.plans import (
    HeadPlan,
    ModelWeights,
    PersonalisingPlan,
    PopulationPrior,
    TrainingPlan,
)

WINDOW = ReturnWindow(min_s=10.0, max_s=20.0)
#: SHA-256 of no bytes at all: the model of these tests.
MODEL_DIGEST = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
PLAN = PersonalisingPlan(
    head=HeadPlan(),
    prior=PopulationPrior(
        blend=((0.7, 0.1, 0.1, 0.1),) * 7, strength=90.0, gain_mean=0.0, gain_deviation=1.0
    ),
    words_needed=200,
)
ABLE = Capabilities(tasks=("train", "personalize"))


def assignment(kind: TaskKind, plan: PersonalisingPlan | None) -> Assignment:
    return Assignment(
        id=AssignmentId("a"),
        token="token",
        task=TaskName("p"),
        round=RoundId("p-1"),
        model_version=ModelVersion(0),
        model_digest=MODEL_DIGEST,
        layout=bytes(16),
        plan=TrainingPlan(learning_rate=0.1),
        codec={"codec": "float32"},
        seed=1,
        expires_in_s=600.0,
        task_kind=kind,
        personalising=plan,
    )


class DeviceVisit:
    """One device that checks in and is given this work."""

    def __init__(self, work: Assignment, can: Capabilities) -> None:
        installation = Installation(
            population=PopulationName("en-US"), app_build=100, locale="en-US", capabilities=can
        )
        self.device = Device(installation, random.Random(1))
        self._work = work

    def begin(self) -> Effect:
        """Enrols, checks in, and hears of the work."""
        self.tell(Woke(DeviceStatus()))
        self.receive(Enrolment(device=DeviceId("d"), token="t", expires_in_s=86_400.0, return_window=WINDOW))
        waits = self.device.effect
        assert isinstance(waits, Wait)
        facts = LocalFacts(words_typed=700)
        self.device.step(Woke(DeviceStatus(examples=300, facts=facts)), 30.0)
        return self.receive(self._work)

    def tell(self, event: InputEvent) -> Effect:
        """Something happens."""
        return self.device.step(event, 30.0)

    def receive(self, message: Enrolment | Assignment | OfferAnswer | Receipt | FailureAck) -> Effect:
        """The server answers."""
        return self.tell(Answered(success_response(message)))


def test_it_is_asked_to_personalise_by_the_plan() -> None:
    visit = DeviceVisit(assignment(TaskKind.PERSONALIZE, PLAN), ABLE)
    visit.begin()
    visit.tell(Answered(Response(200, {}, b"")))

    effect = visit.tell(ModelStored())

    assert isinstance(effect, Train)
    assert effect.personalising == PLAN
    assert visit.device.state is DeviceState.TRAINING


def test_the_report_says_nothing_beside_the_evidence() -> None:
    visit = DeviceVisit(assignment(TaskKind.PERSONALIZE, PLAN), ABLE)
    visit.begin()
    visit.tell(Answered(Response(200, {}, b"")))
    visit.tell(ModelStored())
    visit.tell(Trained(delta=b"evidence", examples=731, loss_before=5.0, loss_after=4.0, train_s=12.0))

    effect = visit.receive(OfferAnswer(action=OfferAction.SEND, return_window=WINDOW))

    assert isinstance(effect, Send)
    report = wire.decode(effect.request.body, Report)
    assert report == Report(delta=b"evidence", examples=1, session_shape="-v[]+")


@pytest.mark.parametrize(
    ("kind", "plan", "words"), [(TaskKind.PERSONALIZE, PLAN, 0), (TaskKind.TRAIN, None, 700)]
)
def test_only_a_report_of_training_begins_the_count_of_words_anew(
    kind: TaskKind, plan: PersonalisingPlan | None, words: int
) -> None:
    visit = DeviceVisit(assignment(kind, plan), ABLE)
    visit.begin()
    visit.tell(Answered(Response(200, {}, b"")))
    visit.tell(ModelStored())
    visit.tell(Trained(delta=b"delta", examples=1))
    visit.receive(OfferAnswer(action=OfferAction.SEND, return_window=WINDOW))

    visit.receive(Receipt(counted=True, return_window=WINDOW))

    assert visit.device.counters.reports_acked == 1
    assert visit.device._memory.words_at_last_training == words


@pytest.mark.parametrize(
    ("kind", "plan", "can"),
    [
        (TaskKind.PERSONALIZE, PLAN, Capabilities()),
        (TaskKind.PERSONALIZE, None, ABLE),
        (TaskKind.TRAIN, PLAN, ABLE),
    ],
    ids=["it does not know the kind", "no plan", "a plan of another kind"],
)
def test_work_that_it_cannot_do_is_given_back_at_once(
    kind: TaskKind, plan: PersonalisingPlan | None, can: Capabilities
) -> None:
    visit = DeviceVisit(assignment(kind, plan), can)

    effect = visit.begin()

    assert isinstance(effect, Send)
    assert wire.decode(effect.request.body, Failure) == Failure(
        cause=FailureCause.NOT_ELIGIBLE, session_shape="-*"
    )
    visit.receive(FailureAck(return_window=WINDOW))
    assert visit.device.state is DeviceState.RESTING
    *_, ended = visit.device.take_events()
    assert isinstance(ended, AssignmentEnded)
    assert ended.reason is EndReason.RETURNED


def test_it_downloads_the_weights_that_the_assignment_names() -> None:
    work = assignment(TaskKind.PERSONALIZE, PLAN)
    plan = msgspec.structs.replace(PLAN, weights=ModelWeights.RELEASED)
    released = assignment(TaskKind.PERSONALIZE, plan)

    effects = [DeviceVisit(one, ABLE).begin() for one in (work, released)]

    paths = [effect.request.path for effect in effects if isinstance(effect, Send)]
    assert paths == ["/v1/models/0", "/v1/models/0/release"]
