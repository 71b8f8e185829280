"""An evaluate assignment needs two models: both are downloaded, by delta where one of them is there."""

import hashlib

import pytest
from tests.unit.device.test_personalize_assignment import WINDOW, DeviceVisit

from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train
from keyflock_client_sim.device.input_events import Answered, ModelStored, PatchFailed, Trained
from keyflock_client_sim.device.states import DeviceState
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import MODEL_DELTA, Response
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    Failure,
    FailureCause,
    OfferAction,
    OfferAnswer,
    Receipt,
    Report,
    TaskKind,
)
from keyflock_server.protocol.plans import EvaluatingPlan, ModelWeights, TrainingPlan

BASELINE, CANDIDATE = b"baseline", b"candidate"
ABLE = Capabilities(tasks=("train", "personalize", "evaluate"))


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


PLAN = EvaluatingPlan(
    baseline_version=ModelVersion(3),
    baseline_digest=digest(BASELINE),
    baseline_content_digest=bytes(32),
    baseline_weights=ModelWeights.RELEASED,
    metrics=("recall_at_3",),
    words_needed=50,
)


def assignment(plan: EvaluatingPlan | None = PLAN, kind: TaskKind = TaskKind.EVALUATE) -> Assignment:
    return Assignment(
        id=AssignmentId("a"),
        token="token",
        task=TaskName("e"),
        round=RoundId("e-1"),
        model_version=ModelVersion(4),
        model_digest=digest(CANDIDATE),
        layout=bytes(16),
        plan=TrainingPlan(learning_rate=0.1),
        codec={"codec": "float32"},
        seed=1,
        expires_in_s=600.0,
        task_kind=kind,
        content_digest=bytes(range(32)),
        evaluating=plan,
    )


def path(effect: Effect) -> str:
    assert isinstance(effect, Send)
    return effect.request.path


def downloaded(visit: DeviceVisit, body: bytes) -> Effect:
    """Let the device download and store a whole model."""
    storing = visit.tell(Answered(Response(200, {}, body)))
    assert isinstance(storing, StoreModel)
    assert storing.digest == digest(body)
    return visit.tell(ModelStored())


def test_both_models_are_downloaded_before_anything_is_scored() -> None:
    visit = DeviceVisit(assignment(), ABLE)

    first = visit.begin()
    second = downloaded(visit, BASELINE)
    work = downloaded(visit, CANDIDATE)

    assert path(first) == "/v1/models/3/release"
    assert path(second) == "/v1/models/4"
    assert isinstance(work, Train)
    assert work.evaluating == PLAN
    assert visit.device.session_shape == "-v["


def test_the_candidate_comes_as_a_delta_to_the_baseline() -> None:
    visit = DeviceVisit(assignment(), ABLE)
    visit.begin()
    asked = downloaded(visit, BASELINE)
    headers = {
        "im": MODEL_DELTA,
        "etag": f'"{digest(CANDIDATE).hex()}"',
        "delta-base": f'"{digest(BASELINE).hex()}"',
    }

    patch = visit.tell(Answered(Response(226, headers, b"delta")))

    assert isinstance(asked, Send)
    assert asked.request.headers["If-None-Match"] == f'"{digest(BASELINE).hex()}"'
    assert isinstance(patch, PatchModel)
    assert (patch.base, patch.digest) == (digest(BASELINE), digest(CANDIDATE))
    assert patch.content_digest == bytes(range(32))
    assert isinstance(visit.tell(ModelStored()), Train)


def test_a_delta_that_leads_nowhere_is_followed_by_the_whole_candidate() -> None:
    visit = DeviceVisit(assignment(), ABLE)
    visit.begin()
    downloaded(visit, BASELINE)
    headers = {
        "im": MODEL_DELTA,
        "etag": f'"{digest(CANDIDATE).hex()}"',
        "delta-base": f'"{digest(BASELINE).hex()}"',
    }
    visit.tell(Answered(Response(226, headers, b"delta")))

    whole = visit.tell(PatchFailed())

    assert path(whole) == "/v1/models/4"
    assert isinstance(whole, Send)
    assert "If-None-Match" not in whole.request.headers
    assert isinstance(downloaded(visit, CANDIDATE), Train)


def test_a_model_that_is_needed_makes_no_room_for_the_other() -> None:
    visit = DeviceVisit(assignment(), ABLE)
    other = digest(b"another model")
    visit.device._memory.stored_models = (other, digest(BASELINE))

    asked = visit.begin()
    storing = visit.tell(Answered(Response(200, {}, CANDIDATE)))

    assert path(asked) == "/v1/models/4"
    assert isinstance(storing, StoreModel)
    assert storing.evicted == (other,)


def test_who_has_both_models_begins_at_once() -> None:
    visit = DeviceVisit(assignment(), ABLE)
    visit.device._memory.stored_models = (digest(CANDIDATE), digest(BASELINE))

    assert isinstance(visit.begin(), Train)


def test_the_report_says_nothing_beside_the_scores() -> None:
    visit = DeviceVisit(assignment(), ABLE)
    visit.device._memory.stored_models = (digest(CANDIDATE), digest(BASELINE))
    visit.begin()
    visit.tell(Trained(delta=b"scores", examples=731, loss_before=5.0, loss_after=4.0, train_s=12.0))

    effect = visit.receive(OfferAnswer(action=OfferAction.SEND, return_window=WINDOW))

    assert isinstance(effect, Send)
    assert wire.decode(effect.request.body, Report) == Report(
        delta=b"scores", examples=1, session_shape="-v[]+"
    )
    visit.receive(Receipt(counted=True, return_window=WINDOW))
    assert visit.device._memory.words_at_last_training == 0


@pytest.mark.parametrize(
    ("work", "can"),
    [
        (assignment(), Capabilities(tasks=("train", "personalize"))),
        (assignment(plan=None), ABLE),
        (assignment(kind=TaskKind.TRAIN), ABLE),
    ],
    ids=["it does not know the kind", "no plan", "a plan of another kind"],
)
def test_work_that_it_cannot_do_is_given_back_at_once(work: Assignment, can: Capabilities) -> None:
    visit = DeviceVisit(work, can)

    effect = visit.begin()

    assert isinstance(effect, Send)
    assert wire.decode(effect.request.body, Failure).cause is FailureCause.NOT_ELIGIBLE
    assert visit.device.state is DeviceState.RETURNING
