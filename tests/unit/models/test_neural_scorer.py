from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.scoring import score_by_log_probabilities
from keyflock_models.network.cifg import build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def scorer(tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary) -> NeuralScorer:
    return NeuralScorer(tiny, toy_weights, toy_vocabulary)


def test_log_probabilities_are_the_networks(
    tiny: ModelConfig, toy_weights: F32, scorer: NeuralScorer, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(5, length=9)
    params = {name: jnp.asarray(p) for name, p in ParamLayout.for_config(tiny).unflatten(toy_weights).items()}

    found = scorer.log_probabilities(rows, np.array([4, 0, 4], np.int32), np.array([0, 1, 1], np.int32))

    whole = jax.nn.log_softmax(build_network(tiny, params)(jnp.asarray(rows[:, :-1])))
    np.testing.assert_allclose(found, np.asarray(whole)[[4, 0, 4], [0, 1, 1]], atol=1e-5)


def test_ranks_counted_on_the_device_are_those_counted_from_log_probabilities(
    scorer: NeuralScorer, toy_messages: Callable[..., I32]
) -> None:
    # More rows than go through the recurrence at once, more targets than go through the vocabulary at once.
    rows = toy_messages(150, length=9)

    scores = scorer.score(rows)
    slowly = score_by_log_probabilities(scorer, rows, scorer.vocabulary.is_displayable)

    assert len(scores.target) > 512
    for name in ("row", "column", "target", "rank", "is_argmax"):
        assert np.array_equal(getattr(scores, name), getattr(slowly, name))
    np.testing.assert_allclose(scores.nll, slowly.nll, atol=1e-5)


def test_a_rows_scores_do_not_depend_on_the_rows_beside_it(
    scorer: NeuralScorer, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(20, length=9)

    together, alone = scorer.score(rows), scorer.score(rows[7:8])

    np.testing.assert_allclose(together.nll[together.row == 7], alone.nll, atol=1e-5)


def test_no_sequences_have_no_scores(scorer: NeuralScorer) -> None:
    empty = np.zeros((0, 7), np.int32)
    nowhere = np.zeros(0, np.int32)

    assert len(scorer.score(empty).rank) == 0
    assert scorer.log_probabilities(empty, nowhere, nowhere).shape == (0, 64)


def test_a_vocabulary_of_another_size_is_refused(toy_vocabulary: Vocabulary) -> None:
    config = ModelConfig(vocabulary_size=65, embedding_size=8, hidden_size=12)

    with pytest.raises(ValueError, match="64 words for a network of 65"):
        NeuralScorer(config, np.zeros(config.parameter_count, np.float32), toy_vocabulary)
