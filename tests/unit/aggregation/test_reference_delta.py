"""The server's own delta: honest training, on the anchor text or on drawn words."""

from dataclasses import dataclass

import numpy as np
import pytest

from keyflock_models.arrays import I32
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.aggregation.reference_delta import drawn_text, reference_delta
from keyflock_server.protocol.plans import TrainingPlan

CONFIG = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
VOCABULARY = build_vocabulary([f"word{n}" for n in range(8)], [0.5, *[0.05] * 7], oov=0.1, eos=0.05)
WEIGHTS = np.linspace(-0.5, 0.5, ParamLayout.for_config(CONFIG).size, dtype=np.float32)
PLAN = TrainingPlan(learning_rate=0.3)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Anchored(Checkpoint):
    """A checkpoint with an anchor text."""

    anchor: I32


def start(weights: np.ndarray = WEIGHTS) -> Checkpoint:
    return Checkpoint(CONFIG, VOCABULARY, weights)


def test_the_same_model_and_plan_give_the_same_delta_that_moves_the_model() -> None:
    one, again = reference_delta(start(), PLAN), reference_delta(start(), PLAN)

    np.testing.assert_array_equal(one, again)
    assert np.isfinite(one).all()
    assert np.linalg.norm(one) > 0.01


def test_the_anchor_text_is_what_it_trains_on_where_there_is_one() -> None:
    rows = np.array([[BOS, 4, 5, EOS]] * 8, np.int32)
    anchored = Anchored(config=CONFIG, vocabulary=VOCABULARY, weights=WEIGHTS, anchor=rows)

    delta = reference_delta(anchored, PLAN)

    # Words that are in no message become less likely; the two that are become more so.
    bias = ParamLayout.for_config(CONFIG).unflatten(delta)["output_bias"]
    assert (bias[[4, 5]] < 0).all()
    assert (bias[6:] > 0).all()
    assert not np.array_equal(delta, reference_delta(start(), PLAN))


def test_a_rate_at_which_training_diverges_gives_a_finite_delta_all_the_same() -> None:
    delta = reference_delta(start(1e18 * WEIGHTS), TrainingPlan(learning_rate=100.0, epochs=20))

    assert np.isfinite(delta).all()


@pytest.mark.parametrize("length", [2, 5, 20])
def test_drawn_messages_are_whole_and_of_ordinary_words(length: int) -> None:
    rows = drawn_text(VOCABULARY, 200, length)

    assert rows.shape == (200, length + 1)
    assert (rows[:, 0] == BOS).all()
    assert (np.count_nonzero(rows == EOS, axis=1) == 1).all()
    words = rows[(rows != BOS) & (rows != EOS) & (rows != PAD)]
    assert words.min() >= len(SPECIAL_TOKENS)
    # Half of all words are the most frequent one: 0.5 of 0.85. Of 200 draws at least, 1 in 1e9 is off by 0.2.
    assert np.mean(words == 4) == pytest.approx(0.5 / 0.85, abs=0.2)
