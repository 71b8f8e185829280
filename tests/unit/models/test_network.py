import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keyflock_models.arrays import F32, F64, I32
from keyflock_models.network.cifg import build_network, init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.network.recurrence import _forward, cifg
from keyflock_models.text.vocabulary import Vocabulary


def sigmoid(x: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def logits_by_the_book(params: dict[str, F32], tokens: I32) -> F64:
    """The published equations, one token of one sequence at a time."""
    p = {name: tensor.astype(np.float64) for name, tensor in params.items()}
    units = p["projection"].shape[0]
    out = np.zeros((*tokens.shape, len(p["embedding"])))
    for b, sequence in enumerate(tokens):
        cell, state = np.zeros(units), np.zeros(p["projection"].shape[1])
        for t, token in enumerate(sequence):
            z = p["embedding"][token] @ p["input_kernel"] + state @ p["recurrent_kernel"] + p["gate_bias"]
            forget, output = sigmoid(z[:units]), sigmoid(z[units : 2 * units])
            cell = forget * cell + (1 - forget) * np.tanh(z[2 * units :])
            state = (output * np.tanh(cell)) @ p["projection"]
            out[b, t] = state @ p["embedding"].T + p["output_bias"]
    return out


def test_logits_are_those_of_the_published_equations(tiny: ModelConfig, toy_weights: F32) -> None:
    params = ParamLayout.for_config(tiny).unflatten(toy_weights)
    tokens = np.array([[1, 9, 4, 33, 2], [1, 60, 60, 5, 7]], np.int32)

    logits = build_network(tiny, {name: jnp.asarray(p) for name, p in params.items()})(jnp.asarray(tokens))

    np.testing.assert_allclose(logits, logits_by_the_book(params, tokens), atol=2e-6)


def test_a_prediction_does_not_depend_on_what_comes_later(tiny: ModelConfig, toy_weights: F32) -> None:
    params = {name: jnp.asarray(p) for name, p in ParamLayout.for_config(tiny).unflatten(toy_weights).items()}

    one = build_network(tiny, params)(jnp.array([[1, 9, 4, 33]]))
    other = build_network(tiny, params)(jnp.array([[1, 9, 50, 51]]))

    assert np.array_equal(one[:, :2], other[:, :2])


def test_the_recurrences_own_gradient_is_that_of_plain_differentiation() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    drive = jax.random.normal(keys[0], (5, 3, 12))
    recurrent, projection = jax.random.normal(keys[1], (2, 12)), jax.random.normal(keys[2], (4, 2))
    pull = jax.random.normal(keys[3], (5, 3, 2))

    arguments = (drive, recurrent, projection)
    own = jax.jit(jax.grad(lambda *a: (cifg(*a) * pull).sum(), (0, 1, 2)))(*arguments)
    plain = jax.jit(jax.grad(lambda *a: (_forward(*a)[2] * pull).sum(), (0, 1, 2)))(*arguments)

    for ours, theirs in zip(own, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_a_fresh_network_begins_as_the_public_unigram(tiny: ModelConfig, toy_vocabulary: Vocabulary) -> None:
    params = init_params(tiny, jax.random.key(0), toy_vocabulary.log_frequencies)
    still = params | {"projection": jnp.zeros_like(params["projection"])}

    logits = build_network(tiny, still)(jnp.array([[1, 5]]))

    np.testing.assert_allclose(jax.nn.log_softmax(logits)[0, 1], toy_vocabulary.log_frequencies, atol=1e-5)


def test_fresh_parameters_depend_on_the_key_alone(tiny: ModelConfig, toy_weights: F32) -> None:
    layout = ParamLayout.for_config(tiny)

    assert np.array_equal(layout.flatten(init_params(tiny, jax.random.key(7))), toy_weights)
    assert not np.array_equal(layout.flatten(init_params(tiny, jax.random.key(8))), toy_weights)


def test_log_frequencies_of_another_vocabulary_are_refused(tiny: ModelConfig) -> None:
    with pytest.raises(ValueError, match="for 64 words"):
        init_params(tiny, jax.random.key(0), np.zeros(63, np.float32))
