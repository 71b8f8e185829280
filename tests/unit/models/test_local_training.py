from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keyflock_models.arrays import F32, I32
from keyflock_models.network.cifg import Params, build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import PAD
from keyflock_models.training.local_training import LocalTrainingConfig, _descend, local_train

SGD = LocalTrainingConfig(learning_rate=0.5, batch_size=4)


@partial(jax.jit, static_argnames=("config",))
def plain_loss(config: ModelConfig, params: Params, rows: jax.Array) -> jax.Array:
    logits = build_network(config, params)(rows[:, :-1])
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), rows[:, 1:, None], axis=2)[..., 0]
    is_target = rows[:, 1:] != PAD
    return -jnp.where(is_target, picked, 0).sum() / is_target.sum()


plain_gradient = jax.jit(jax.grad(plain_loss, argnums=1), static_argnames=("config",))


def plain_sgd(config: ModelConfig, weights: F32, batches: list[I32], rate: float) -> F32:
    """The parameters after one step a batch, with nothing clever."""
    layout = ParamLayout.for_config(config)
    params = {name: jnp.asarray(p) for name, p in layout.unflatten(weights).items()}
    for rows in batches:
        gradient = plain_gradient(config, params, jnp.asarray(rows))
        params = {name: p - rate * gradient[name] for name, p in params.items()}
    return layout.flatten(params)


def test_one_full_batch_is_one_plain_step_of_gradient_descent(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(4)

    result = local_train(tiny, toy_weights, rows, SGD, seed=0)

    expected = toy_weights - plain_sgd(tiny, toy_weights, [rows], 0.5)
    np.testing.assert_allclose(result.delta, expected, atol=2e-6)
    assert result.examples == 4


def test_a_small_last_batch_counts_as_what_it_is(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(6)
    shuffle = np.random.default_rng(0)
    rows_used = rows[shuffle.permutation(6)]

    result = local_train(tiny, toy_weights, rows, SGD, seed=0)

    # The second draw of the same generator is the order of training.
    order = shuffle.permutation(6)
    expected = toy_weights - plain_sgd(tiny, toy_weights, [rows_used[order[:4]], rows_used[order[4:]]], 0.5)
    np.testing.assert_allclose(result.delta, expected, atol=2e-6)


def test_losses_are_those_of_the_first_batch_before_and_after(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(4)
    layout = ParamLayout.for_config(tiny)

    result = local_train(tiny, toy_weights, rows, replace(SGD, epochs=3), seed=0)

    for weights, loss in ((toy_weights, result.loss_before), (toy_weights - result.delta, result.loss_after)):
        params = {name: jnp.asarray(p) for name, p in layout.unflatten(weights).items()}
        assert loss == pytest.approx(float(plain_loss(tiny, params, jnp.asarray(rows))), rel=1e-5)
    assert result.loss_after < result.loss_before


def test_a_clipped_gradient_has_the_norm_of_the_bound(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(4)

    clipped = local_train(tiny, toy_weights, rows, replace(SGD, gradient_clip_norm=0.125), seed=0)
    within = local_train(tiny, toy_weights, rows, replace(SGD, gradient_clip_norm=1e6), seed=0)

    assert np.linalg.norm(clipped.delta) == pytest.approx(0.5 * 0.125, rel=1e-4)
    np.testing.assert_allclose(
        within.delta, local_train(tiny, toy_weights, rows, SGD, seed=0).delta, atol=1e-6
    )


def test_the_result_is_a_function_of_its_arguments(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows, before = toy_messages(9), toy_weights.copy()

    first, again, other = (local_train(tiny, toy_weights, rows, SGD, seed=seed).delta for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(toy_weights, before)


def test_no_more_than_the_allowed_examples_are_used(
    tiny: ModelConfig, toy_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    result = local_train(tiny, toy_weights, toy_messages(9), replace(SGD, max_examples=5), seed=0)

    assert result.examples == 5


def test_a_phone_without_sequences_changes_nothing(tiny: ModelConfig, toy_weights: F32) -> None:
    result = local_train(tiny, toy_weights, np.zeros((0, 7), np.int32), SGD, seed=0)

    assert (result.examples, result.loss_before, result.loss_after) == (0, 0.0, 0.0)
    assert not result.delta.any()


def test_phones_with_different_numbers_of_batches_share_one_compiled_program(
    tiny: ModelConfig, toy_weights: F32
) -> None:
    full_rows = np.full((40, 6), 9, np.int32)
    local_train(tiny, toy_weights, full_rows[:4], SGD, seed=0)
    compiled = _descend._cache_size()  # type: ignore[attr-defined]  # of jax.jit's wrapper

    for count in (5, 8, 23, 40):
        local_train(tiny, toy_weights, full_rows[:count], SGD, seed=0)

    assert _descend._cache_size() == compiled  # type: ignore[attr-defined]  # as above


@pytest.fixture(scope="module")
def wide() -> ModelConfig:
    return ModelConfig(vocabulary_size=1_000, embedding_size=8, hidden_size=12)


@pytest.fixture(scope="module")
def wide_weights(wide: ModelConfig) -> F32:
    rng = np.random.default_rng(0)
    return (rng.normal(size=wide.parameter_count) * 0.3).astype(np.float32)


def test_candidates_that_are_the_whole_vocabulary_are_the_full_softmax(
    wide: ModelConfig, wide_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(9)

    full = local_train(wide, wide_weights, rows, SGD, seed=0)
    candidates = local_train(wide, wide_weights, rows, replace(SGD, candidates=1_000), seed=0)

    np.testing.assert_allclose(candidates.delta, full.delta, atol=1e-6)


def test_words_that_were_no_candidates_do_not_move_at_all(
    wide: ModelConfig, wide_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(9)

    delta = local_train(wide, wide_weights, rows, replace(SGD, candidates=100), seed=0).delta

    changed = ParamLayout.for_config(wide).unflatten(delta)
    moved = np.flatnonzero(changed["embedding"].any(axis=1))
    assert len(moved) <= 256
    assert np.isin(np.unique(rows), moved).all()
    assert np.isin(np.flatnonzero(changed["output_bias"]), moved).all()


def test_the_candidate_gradient_has_the_full_gradient_as_its_mean(
    wide: ModelConfig, wide_weights: F32, toy_messages: Callable[..., I32]
) -> None:
    # The estimated sum stands under a logarithm, so its gradient is a little biased; with 256 of 1,000 words
    # the mean over 60 samples comes within 5 % of the full gradient, where a single sample is off by a
    # quarter.
    rows = toy_messages(4)
    full = local_train(wide, wide_weights, rows, SGD, seed=0).delta

    deltas = [
        local_train(wide, wide_weights, rows, replace(SGD, candidates=100), seed=seed).delta
        for seed in range(60)
    ]

    off = [np.linalg.norm(delta - full) / np.linalg.norm(full) for delta in deltas]
    off_mean = np.linalg.norm(np.mean(deltas, axis=0) - full) / np.linalg.norm(full)
    assert off_mean < 0.05
    assert off_mean < np.mean(off) / 3


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.zeros((2, 1), np.int32), "at least two ids"),
        (np.zeros(5, np.int32), "at least two ids"),
        (np.full((2, 5), 64, np.int32), "not in a vocabulary of 64"),
        (np.full((2, 5), -1, np.int32), "not in a vocabulary of 64"),
    ],
)
def test_rows_that_are_no_sequences_are_refused(
    tiny: ModelConfig, toy_weights: F32, rows: I32, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        local_train(tiny, toy_weights, rows, SGD, seed=0)


def test_weights_of_another_model_are_refused(tiny: ModelConfig, toy_weights: F32) -> None:
    with pytest.raises(ValueError, match="does not fill a layout"):
        local_train(tiny, toy_weights[:-1], np.ones((1, 5), np.int32), SGD, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"gradient_clip_norm": -1.0},
        {"epochs": 0},
        {"batch_size": 0},
        {"max_examples": 0},
        {"candidates": -1},
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be above 0|at least"):
        replace(SGD, **wrong)  # type: ignore[arg-type]  # the point of the test
