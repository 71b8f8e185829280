from dataclasses import replace

import jax
import numpy as np
import pytest

from keyflock_compression import decode_state, encode_state
from keyflock_models.arrays import F32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import PersonalHead, WrongSpaceError, feature_space
from keyflock_models.personal.head_mapping import (
    HeadMap,
    anchor_contexts,
    compose_maps,
    fit_head_map,
    map_head,
)
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

CONFIG = ModelConfig(vocabulary_size=64, embedding_size=8, hidden_size=12)
WIDTH = CONFIG.embedding_size


@pytest.fixture(scope="module")
def sixty() -> Vocabulary:
    shares = 1.0 / np.arange(1, 61)
    return build_vocabulary([f"w{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(60)],
                         list(shares / shares.sum() * 0.9), oov=0.1, eos=0.1)  # fmt: skip


def tensors_of(seed: int = 0) -> dict[str, F32]:
    params = init_params(CONFIG, jax.random.key(seed))
    return {name: np.array(value) for name, value in params.items()}


def trunk_of(tensors: dict[str, F32], vocabulary: Vocabulary) -> NeuralScorer:
    return NeuralScorer(CONFIG, ParamLayout.for_config(CONFIG).flatten(tensors), vocabulary)


def nudged(tensors: dict[str, F32], seed: int, size: float = 0.05) -> dict[str, F32]:
    rng = np.random.default_rng(seed)
    return {
        name: (value + size * value.std() * rng.normal(size=value.shape)).astype(np.float32)
        for name, value in tensors.items()
    }


def rotated(tensors: dict[str, F32], seed: int = 5) -> dict[str, F32]:
    """The same network, its states and word vectors turned: every probability stays."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))
    turn = turn.astype(np.float32)
    return tensors | {
        "embedding": tensors["embedding"] @ turn,
        "projection": tensors["projection"] @ turn,
        "input_kernel": turn.T @ tensors["input_kernel"],
        "recurrent_kernel": turn.T @ tensors["recurrent_kernel"],
    }


def head_on(trunk: NeuralScorer) -> PersonalHead:
    rng = np.random.default_rng(1)
    return PersonalHead(
        feature_space(trunk.weights),
        rng.normal(size=(WIDTH, 3)).astype(np.float32),
        rng.normal(size=(3, WIDTH)).astype(np.float32),
        np.array([5, 9], np.int32),
        np.array([1.5, -0.5], np.float32),
    )


def says(trunk: NeuralScorer, head: PersonalHead) -> F32:
    contexts = anchor_contexts(trunk.vocabulary, count=20, seed=9)
    states = trunk.states(contexts).reshape(-1, WIDTH)
    return head.require_space(feature_space(trunk.weights)).probabilities(states, *trunk.output_product)


def test_a_map_between_identical_trunks_is_the_identity(sixty: Vocabulary) -> None:
    trunk = trunk_of(tensors_of(), sixty)

    found = fit_head_map(trunk, trunk)

    assert found.states.tolist() == np.eye(WIDTH).tolist()
    assert found.outputs.tolist() == np.eye(WIDTH).tolist()
    assert found.from_space == found.to_space == feature_space(trunk.weights)


def test_a_rotation_of_the_state_space_is_undone(sixty: Vocabulary) -> None:
    old, new = trunk_of(tensors_of(), sixty), trunk_of(rotated(tensors_of()), sixty)
    head = head_on(old)

    mapped = map_head(head, fit_head_map(old, new, state_ridge=1e-7, output_ridge=1e-7))

    np.testing.assert_allclose(says(new, mapped), says(old, head), atol=1e-3)
    unmapped = replace(head, space=feature_space(new.weights))
    assert np.abs(says(new, unmapped) - says(old, head)).max() > 0.1


def test_a_firm_ridge_leaves_the_head_as_it_is(sixty: Vocabulary) -> None:
    old, new = trunk_of(tensors_of(), sixty), trunk_of(rotated(tensors_of()), sixty)

    found = fit_head_map(old, new, state_ridge=1e9, output_ridge=1e9)

    np.testing.assert_allclose(found.states, np.eye(WIDTH), atol=1e-6)
    np.testing.assert_allclose(found.outputs, np.eye(WIDTH), atol=1e-6)


def test_one_composed_map_does_what_two_do_after_each_other(sixty: Vocabulary) -> None:
    tensors = [tensors_of()]
    tensors.append(nudged(tensors[0], 1))
    tensors.append(nudged(tensors[1], 2))
    trunks = [trunk_of(one, sixty) for one in tensors]
    first, second = fit_head_map(trunks[0], trunks[1]), fit_head_map(trunks[1], trunks[2])
    head = head_on(trunks[0])

    at_once = map_head(head, compose_maps(first, second))
    by_step = map_head(map_head(head, first), second)

    assert at_once.space == by_step.space == feature_space(trunks[2].weights)
    np.testing.assert_allclose(at_once.down, by_step.down, atol=1e-5)
    np.testing.assert_allclose(at_once.up, by_step.up, atol=1e-5)
    assert compose_maps(first, second).steps == 2


def test_maps_that_do_not_meet_are_not_composed(sixty: Vocabulary) -> None:
    old, new = trunk_of(tensors_of(0), sixty), trunk_of(tensors_of(1), sixty)
    there = fit_head_map(old, new)

    with pytest.raises(WrongSpaceError, match="does not go on"):
        compose_maps(there, there)


def test_a_head_of_another_space_is_not_mapped(sixty: Vocabulary) -> None:
    old, new = trunk_of(tensors_of(0), sixty), trunk_of(tensors_of(1), sixty)

    with pytest.raises(WrongSpaceError, match="map or refit it"):
        map_head(head_on(new), fit_head_map(old, new))


def test_trunks_of_different_words_have_no_map(sixty: Vocabulary) -> None:
    other = build_vocabulary(sixty.words[:3:-1], [1 / 60] * 60, oov=0.1, eos=0.1)

    with pytest.raises(ValueError, match="different vocabularies"):
        fit_head_map(trunk_of(tensors_of(), sixty), trunk_of(tensors_of(), other))


def test_a_map_that_blows_a_head_up_is_refused(sixty: Vocabulary) -> None:
    trunk = trunk_of(tensors_of(), sixty)
    head_map = replace(fit_head_map(trunk, trunk), states=np.full((WIDTH, WIDTH), 999.0, np.float32))

    with pytest.raises(PersonalStateError, match="finite and small"):
        map_head(head_on(trunk), head_map)


def test_anchor_contexts_are_the_same_everywhere_and_hold_words_alone(sixty: Vocabulary) -> None:
    contexts = anchor_contexts(sixty, count=200, words=6)

    assert contexts.shape == (200, 8)
    assert contexts[0].tolist() == [1, 12, 4, 3, 3, 26, 41, 2]
    assert contexts.tolist() == anchor_contexts(sixty, count=200, words=6).tolist()
    assert set(contexts[:, 0]) == {BOS}
    assert set(contexts[:, -1]) == {EOS}
    assert contexts[:, 1:-1].min() == OOV
    assert contexts[:, 1:-1].max() < len(sixty)


def test_a_shipped_map_survives_the_container_and_takes_two_bytes_a_number(sixty: Vocabulary) -> None:
    old = trunk_of(tensors_of(), sixty)
    new = trunk_of(nudged(tensors_of(), 1), sixty)
    head_map = fit_head_map(old, new)

    state = decode_state(encode_state(head_map.to_state()))
    again = HeadMap.from_state(state, width=WIDTH)

    np.testing.assert_allclose(again.states, head_map.states, atol=1e-3)
    np.testing.assert_allclose(again.outputs, head_map.outputs, atol=1e-3)
    assert (again.from_space, again.to_space, again.steps) == (
        head_map.from_space,
        head_map.to_space,
        1,
    )
    arrays = [value for value in head_map.to_state().values() if isinstance(value, np.ndarray)]
    assert sum(one.nbytes for one in arrays) == 2 * 2 * WIDTH * WIDTH


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"from": "x" * 32}, "32 hex digits"),
        ({"to": None}, "32 hex digits"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 1_001}, "steps"),
        ({"states": np.zeros((WIDTH, WIDTH), np.float32)}, "no float16"),
        ({"states": np.zeros((WIDTH, WIDTH + 1), np.float16)}, "for states of 8"),
        ({"outputs": np.full((WIDTH, WIDTH), np.nan, np.float16)}, "finite"),
        ({"outputs": np.full((WIDTH, WIDTH), 2_000.0, np.float16)}, "finite"),
    ],
)
def test_a_state_that_cannot_be_a_map_is_refused(
    sixty: Vocabulary, change: dict[str, object], reason: str
) -> None:
    trunk = trunk_of(tensors_of(), sixty)
    state = fit_head_map(trunk, trunk).to_state() | change

    with pytest.raises(PersonalStateError, match=reason):
        HeadMap.from_state(state, width=WIDTH)


def test_something_else_is_no_map() -> None:
    with pytest.raises(PersonalStateError, match="no map"):
        HeadMap.from_state([1], width=WIDTH)
