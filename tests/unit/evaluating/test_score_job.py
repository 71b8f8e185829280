"""What one phone makes of an evaluate assignment: bounded numbers about two versions, nothing of the text."""

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
from keyflock_client_sim.evaluating.evaluating_trainer import EvaluatingTrainer
from keyflock_client_sim.evaluating.score_job import ScoreVersions
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.testing.fake_trainers import RandomDeltaTrainer
from keyflock_compression import Float32Spec, decode, encode_weights
from keyflock_models.evaluation.keystrokes import keystroke_savings
from keyflock_models.evaluation.measures import evaluate
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.paired_scores import METRICS, paired_layout, scores_problem
from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion
from keyflock_server.protocol.messages import FailureCause
from keyflock_server.protocol.plans import EvaluatingPlan, TrainingPlan

ALL = tuple(METRICS)
CODEC = Float32Spec(entropy="none")
OTHER = np.random.default_rng(1).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)


@pytest.fixture
def workers(tmp_path: Path) -> Here:
    return Here(tmp_path)


def job(
    workers: Here, messages: tuple[str, ...], metrics: tuple[str, ...] = ALL, words_needed: int = 50
) -> ScoreVersions:
    return ScoreVersions(
        candidate=workers.publish(encode_weights(OTHER, LAYOUT)),
        baseline=workers.publish(encode_weights(checkpoint().weights, LAYOUT)),
        config=CONFIG,
        vocabulary=VOCABULARY,
        messages=messages,
        metrics=metrics,
        words_needed=words_needed,
        codec=CODEC.to_wire(),
        seed=5,
    )


def named(container: bytes | None, metrics: tuple[str, ...] = ALL) -> dict[str, float]:
    assert container is not None
    layout = paired_layout(metrics)
    vector = decode(container, layout, spec=CODEC).dense()
    assert scores_problem(vector, metrics) == ""
    return {name: float(part[0]) for name, part in layout.unflatten(vector).items()}


def test_both_versions_are_measured_as_this_package_measures_them(workers: Here) -> None:
    messages = habits(1, messages=20)
    work = job(workers, messages)

    found = named(work.run(workers.models))

    rows = {"user": encode_messages(VOCABULARY, messages, SEQUENCE_LENGTH)}
    letters = {"user": letters_in_messages(messages, SEQUENCE_LENGTH)}
    assert found["words"] == sum(len(message.split()) for message in messages)
    assert found["oov_rate"] == pytest.approx(3 / found["words"])
    for version, digest in (("candidate", work.candidate), ("baseline", work.baseline)):
        scorer = NeuralScorer(CONFIG, workers.models.weights(digest, LAYOUT), VOCABULARY)
        expected = evaluate(scorer, rows)
        for metric in ("recall_at_1", "recall_at_3", "mrr_at_10", "nll"):
            assert found[f"{metric}.{version}"] == pytest.approx(getattr(expected, metric).mean, rel=1e-6)
        savings = keystroke_savings(scorer, VOCABULARY, rows, letters).all.mean
        assert found[f"ksr.{version}"] == pytest.approx(savings, rel=1e-6)
    assert found["nll.candidate"] != found["nll.baseline"]


def test_only_what_is_asked_for_is_reported(workers: Here) -> None:
    found = named(job(workers, habits(1), ("recall_at_3",)).run(workers.models), ("recall_at_3",))

    assert {name.partition(".")[0] for name in found} == {"phones", "words", "oov_rate", "recall_at_3"}


def test_a_phone_with_too_few_words_says_nothing(workers: Here) -> None:
    messages = habits(1, messages=20)
    words = sum(len(message.split()) for message in messages)

    assert job(workers, messages, words_needed=words + 1).run(workers.models) is None
    assert job(workers, messages, words_needed=words).run(workers.models) is not None


def test_a_phone_whose_every_word_is_unknown_says_nothing(workers: Here) -> None:
    assert job(workers, (PRIVATE_WORD,) * 60).run(workers.models) is None


def test_every_phones_scores_have_the_same_size_and_nothing_of_the_text(workers: Here) -> None:
    containers = [job(workers, habits(seed, 20 + seed)).run(workers.models) or b"" for seed in range(3)]

    assert len({len(container) for container in containers}) == 1
    assert PRIVATE_WORD.encode() not in b"".join(containers)


def work(**other: object) -> Train:
    plan = EvaluatingPlan(
        baseline_version=ModelVersion(0), baseline_digest=bytes(32), metrics=ALL, words_needed=50
    )
    fields: dict[str, object] = {
        "assignment": AssignmentId("a"),
        "model_digest": bytes(32),
        "model_version": ModelVersion(0),
        "layout": paired_layout(ALL).digest,
        "plan": TrainingPlan(learning_rate=0.1),
        "codec": CODEC.to_wire(),
        "seed": 2**63,
        "expires_at_s": 100.0,
        "evaluating": plan,
    } | other
    return Train(**fields)  # type: ignore[arg-type]  # field by field above


def trainer(workers: Here, messages: tuple[str, ...]) -> EvaluatingTrainer:
    other = RandomDeltaTrainer({"phone": 10}, LAYOUT)
    return EvaluatingTrainer(other, workers, CONFIG, VOCABULARY, {"phone": messages})


async def test_training_goes_to_the_other_trainer(workers: Here) -> None:
    trained = await trainer(workers, ()).train("phone", work(evaluating=None, layout=LAYOUT.digest))

    assert decode(trained.delta, LAYOUT).size == LAYOUT.size
    assert workers.jobs == []


async def test_two_stored_models_are_scored(workers: Here) -> None:
    scoring = trainer(workers, habits(1))
    first, second = (encode_weights(weights, LAYOUT) for weights in (OTHER, checkpoint().weights))
    scoring.store(b"a" * 32, first)
    scoring.store(b"b" * 32, second)
    plan = EvaluatingPlan(
        baseline_version=ModelVersion(0), baseline_digest=b"b" * 32, metrics=ALL, words_needed=50
    )

    trained = await scoring.train("phone", work(model_digest=b"a" * 32, evaluating=plan))

    assert trained.delta == job(workers, habits(1)).run(workers.models)
    assert trained.examples == 1


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"layout": bytes(16)}, FailureCause.TRAINING_FAILED),
        (
            {
                "evaluating": EvaluatingPlan(
                    baseline_version=ModelVersion(0),
                    baseline_digest=bytes(32),
                    metrics=("perplexity",),
                    words_needed=50,
                )
            },
            FailureCause.TRAINING_FAILED,
        ),
    ],
    ids=["another layout", "a metric that it does not know"],
)
async def test_a_phone_that_cannot_score_says_why(
    workers: Here, change: dict[str, object], cause: FailureCause
) -> None:
    with pytest.raises(TrainingError) as error:
        await trainer(workers, habits(1)).train("phone", work(**change))

    assert error.value.cause is cause


async def test_a_phone_with_too_few_words_gives_the_work_back(workers: Here) -> None:
    scoring = trainer(workers, habits(1)[:3])
    scoring.store(bytes(32), encode_weights(OTHER, LAYOUT))

    with pytest.raises(TrainingError) as error:
        await scoring.train("phone", work())

    assert error.value.cause is FailureCause.NO_EXAMPLES
