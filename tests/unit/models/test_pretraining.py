from collections.abc import Callable

import jax
import numpy as np
import pytest

from keyflock_models.arrays import I32
from keyflock_models.network.config import ModelConfig
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_models.training.minibatches import Minibatches, pack
from keyflock_models.training.pretraining import (
    PretrainingConfig,
    PretrainingError,
    PretrainingState,
    begin_pretraining,
    pretrain_step,
)

PLAN = PretrainingConfig(learning_rate=0.02, batch_size=16)


def trained(
    state: PretrainingState, rows: I32, steps: int, plan: PretrainingConfig = PLAN
) -> tuple[PretrainingState, list[float]]:
    feed, losses = Minibatches(pack(rows), batch_size=plan.batch_size, seed=0), []
    for _ in range(steps):
        state, loss = pretrain_step(state, feed.batch(state.step), plan, progress_ratio=0.5)
        losses.append(loss)
    return state, losses


def test_training_lowers_the_loss(
    tiny: ModelConfig, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(64, words=8)

    state, losses = trained(begin_pretraining(tiny, toy_vocabulary, seed=0), rows, 40)

    assert state.step == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_training_goes_on_from_bytes_to_the_same_bits(
    tiny: ModelConfig, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(64)
    halfway, _ = trained(begin_pretraining(tiny, toy_vocabulary, seed=0), rows, 5)

    straight, _ = trained(halfway, rows, 5)
    resumed, _ = trained(PretrainingState.from_bytes(halfway.to_bytes()), rows, 5)

    assert resumed.to_bytes() == straight.to_bytes()
    assert resumed.step == 10


def test_the_first_step_of_adam_moves_each_parameter_by_the_rate_against_its_gradient(
    tiny: ModelConfig, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    begin = begin_pretraining(tiny, toy_vocabulary, seed=0)

    after, _ = pretrain_step(begin, toy_messages(16), PLAN, progress_ratio=PLAN.warm_up_ratio)

    moved = begin.params["recurrent_kernel"] - after.params["recurrent_kernel"]
    slope = after.first_moment["recurrent_kernel"]
    steep = np.abs(slope) > 1e-5
    np.testing.assert_allclose(np.asarray(moved)[steep], 0.02 * np.sign(slope)[steep], rtol=2e-2)


def test_a_candidate_softmax_over_few_words_trains_as_well_and_leaves_the_others_alone(
    toy_messages: Callable[..., I32],
) -> None:
    config = ModelConfig(vocabulary_size=1_000, embedding_size=8, hidden_size=12)
    words = tuple(f"w{i}" for i in range(996))
    vocabulary = Vocabulary(
        ("<pad>", "<s>", "</s>", "<oov>", *words), np.full(1_000, -np.log(1_000), np.float32)
    )
    begin = begin_pretraining(config, vocabulary, seed=0)
    plan = PretrainingConfig(learning_rate=0.02, batch_size=16, candidates=100)

    once, _ = trained(begin, toy_messages(64, words=8), 1, plan)
    often, losses = trained(once, toy_messages(64, words=8), 30, plan)

    assert (once.params["embedding"] != begin.params["embedding"]).any(axis=1).sum() <= 256
    assert losses[-1] < losses[0] - 2
    assert np.isfinite(often.weights).all()


def test_the_learning_rate_rises_to_its_highest_and_falls_to_a_fiftieth() -> None:
    plan = PretrainingConfig(learning_rate=1.0, warm_up_ratio=0.1)

    rates = [plan.rate_at(progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0, 2.0)]

    assert rates == pytest.approx([0.02, 0.5, 1.0, 0.51, 0.02, 0.02])


def test_the_fresh_state_depends_on_the_seed(tiny: ModelConfig, toy_vocabulary: Vocabulary) -> None:
    one, same, other = (begin_pretraining(tiny, toy_vocabulary, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(one.weights, same.weights)
    assert not np.array_equal(one.weights, other.weights)
    assert jax.tree.all(jax.tree.map(lambda m: not m.any(), one.first_moment))


def test_bytes_that_are_no_state_are_refused(tiny: ModelConfig, toy_vocabulary: Vocabulary) -> None:
    document = begin_pretraining(tiny, toy_vocabulary, seed=0).to_bytes()

    for wrong in (b"", b"garbage", document[:-1], document.replace(b'"step"', b'"stop"')):
        with pytest.raises(PretrainingError, match="not a state of pre-training"):
            PretrainingState.from_bytes(wrong)
