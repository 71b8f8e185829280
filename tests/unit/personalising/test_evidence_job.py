"""What one phone makes of a personalize assignment: numbers about its personal model, and nothing of it."""

from pathlib import Path

import numpy as np
import pytest
from tests.unit.personalising.phone_users import (
    CONFIG,
    LAYOUT,
    PRIVATE_WORD,
    VOCABULARY,
    Here,
    checkpoint,
    habits,
)

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_client_sim.personalising.evidence_job import GatherEvidence, priors_of, settings_of
from keyflock_client_sim.personalising.learning import learn_messages
from keyflock_client_sim.personalising.personal_trainer import PersonalTrainer
from keyflock_client_sim.personalising.reader import TrunkReader
from keyflock_client_sim.testing.fake_trainers import RandomDeltaTrainer
from keyflock_compression import Float32Spec, decode, encode_weights
from keyflock_models.arrays import F32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.personal.evidence import BOUNDS, EVIDENCE_LAYOUT, evidence_problem
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion
from keyflock_server.protocol.messages import FailureCause
from keyflock_server.protocol.plans import HeadPlan, PersonalisingPlan, PopulationPrior, TrainingPlan

PLAN = PersonalisingPlan(
    head=HeadPlan(rank=2, biases=16, epochs=4, learning_rate=0.05),
    prior=PopulationPrior(
        blend=((0.6, 0.1, 0.2, 0.1),) * 7, strength=20.0, gain_mean=0.0, gain_deviation=1.0
    ),
    words_needed=100,
)
CODEC = Float32Spec(entropy="none")


@pytest.fixture
def workers(tmp_path: Path) -> Here:
    return Here(tmp_path)


def job(workers: Here, messages: tuple[str, ...]) -> GatherEvidence:
    return GatherEvidence(
        model=workers.publish(encode_weights(checkpoint().weights, LAYOUT)),
        config=CONFIG,
        vocabulary=VOCABULARY,
        messages=messages,
        plan=PLAN,
        codec=CODEC.to_wire(),
        seed=5,
        seconds=2.5,
    )


def read(container: bytes | None) -> F32:
    assert container is not None
    return decode(container, EVIDENCE_LAYOUT, spec=CODEC).dense()


def named(container: bytes | None) -> dict[str, float]:
    parts = EVIDENCE_LAYOUT.unflatten(read(container))
    return {name: float(parts[name][0]) for name in BOUNDS}


def test_a_user_with_habits_gains_and_says_so(workers: Here) -> None:
    messages = habits(1)

    container = job(workers, messages).run(workers.models)

    figures = named(container)
    assert evidence_problem(read(container)) == ""
    assert figures["words"] == sum(len(message.split()) for message in messages)
    assert figures["gain"] > 0.2
    assert figures["late_gain"] > figures["gain"]
    assert (figures["helped"], figures["hurt"], figures["gate_open"]) == (1.0, 0.0, 1.0)
    assert figures["seconds"] == 2.5
    assert figures["stored_bytes"] > 100.0


def test_the_same_phone_and_work_give_the_same_bytes(workers: Here) -> None:
    assert job(workers, habits(1)).run(workers.models) == job(workers, habits(1)).run(workers.models)


def test_a_phone_with_too_few_words_says_nothing(workers: Here) -> None:
    assert job(workers, habits(1)[:10]).run(workers.models) is None


def test_every_phones_evidence_has_the_same_size(workers: Here) -> None:
    sizes = {
        len(job(workers, habits(seed, messages)).run(workers.models) or b"")
        for seed, messages in [(1, 30), (2, 60), (3, 90)]
    }

    assert len(sizes) == 1


def test_nothing_of_the_head_the_words_or_the_counts_is_in_it(workers: Here) -> None:
    messages = habits(1, messages=120)
    container = job(workers, messages).run(workers.models)
    model = PersonalModel.new(VOCABULARY, *priors_of(PLAN.prior))
    weights = checkpoint().weights
    shelf_weights = workers.models.weights(workers.publish(encode_weights(weights, LAYOUT)), LAYOUT)
    trunk = TrunkReader(NeuralScorer(CONFIG, shelf_weights, VOCABULARY), seed=5)

    learn_messages(model, trunk, messages, settings_of(PLAN.head))

    assert container is not None
    assert model.head is not None
    assert PRIVATE_WORD.encode() not in container
    assert PRIVATE_WORD in [model.words.word(one) for one in range(len(VOCABULARY), model.words.end_id)]
    for array in (model.head.down, model.head.up, model.head.bias):
        for kind in (np.float16, np.float32):
            assert array.astype(kind).tobytes()[:8] not in container
    ids = model.encode(messages[0])
    assert np.array(ids[:2], np.int32).tobytes() not in container
    assert read(container).size == len(BOUNDS) + 28


def work(**other: object) -> Train:
    figures: dict[str, object] = {
        "assignment": AssignmentId("a"),
        "model_digest": bytes.fromhex("00" * 32),
        "model_version": ModelVersion(0),
        "layout": EVIDENCE_LAYOUT.digest,
        "plan": TrainingPlan(learning_rate=0.1),
        "codec": CODEC.to_wire(),
        "seed": 2**63,
        "expires_at_s": 100.0,
        "personalising": PLAN,
    } | other
    return Train(**figures)  # type: ignore[arg-type]  # field by field above


def trainer(workers: Here, messages: tuple[str, ...]) -> PersonalTrainer:
    other = RandomDeltaTrainer({"phone": 10}, LAYOUT)
    return PersonalTrainer(other, workers, CONFIG, VOCABULARY, {"phone": messages})


async def test_training_goes_to_the_other_trainer(workers: Here) -> None:
    training = work(personalising=None, layout=LAYOUT.digest)

    trained = await trainer(workers, ()).train("phone", training)

    assert decode(trained.delta, LAYOUT).size == LAYOUT.size
    assert workers.jobs == []


@pytest.mark.parametrize(
    ("layout", "cause"),
    [(EVIDENCE_LAYOUT.digest, FailureCause.NO_EXAMPLES), (bytes(16), FailureCause.TRAINING_FAILED)],
)
async def test_a_phone_that_cannot_answer_says_why(workers: Here, layout: bytes, cause: FailureCause) -> None:
    with pytest.raises(TrainingError) as error:
        await trainer(workers, habits(1)[:3]).train("phone", work(layout=layout))

    assert error.value.cause is cause
