from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.anchor import (
    MAX_ANCHOR_COLUMNS,
    MAX_ANCHOR_ROWS,
    anchor_problem,
    anchor_tokens,
    choose_anchor,
)
from keyflock_models.network.anchor_loss import anchor_loss
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.config import ModelConfig
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_models.text.vocabulary import Vocabulary

pytestmark = pytest.mark.fault("D8")


def test_the_loss_is_the_scorers_mean_over_words_that_could_be_suggested(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(13)
    rows[0, 1] = OOV
    scores = NeuralScorer(tiny, toy_weights, toy_vocabulary).score(rows)
    is_word = toy_vocabulary.is_displayable[scores.target]

    assert anchor_tokens(rows, toy_vocabulary) == is_word.sum()
    assert anchor_loss(tiny, toy_vocabulary, toy_weights, rows) == pytest.approx(
        scores.nll[is_word].mean(), rel=1e-5
    )


def test_weights_that_have_diverged_lose_the_text(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(13)
    noise = np.random.default_rng(0).normal(size=toy_weights.shape).astype(np.float32)

    before = anchor_loss(tiny, toy_vocabulary, toy_weights, rows)
    after = anchor_loss(tiny, toy_vocabulary, toy_weights + 100 * noise, rows)

    assert after > 10 * before


def test_a_choice_is_spread_over_the_rows_and_never_larger_than_the_bound(
    toy_messages: Callable[..., I32],
) -> None:
    rows = toy_messages(1_000)

    chosen = choose_anchor(rows)

    assert chosen is not None
    assert chosen.shape == (MAX_ANCHOR_ROWS, 7)
    assert np.array_equal(chosen[[0, -1]], rows[[0, -1]])
    few = choose_anchor(rows[:3])
    assert few is not None
    assert np.array_equal(few, rows[:3])
    assert choose_anchor(rows[:0]) is None


def test_a_checkpoint_brings_its_anchor_text_back(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    rows = toy_messages(5)
    checkpoint = Checkpoint(tiny, toy_vocabulary, toy_weights, {}, rows)

    again = Checkpoint.from_bytes(checkpoint.to_bytes())

    assert again.anchor is not None
    assert np.array_equal(again.anchor, rows)
    assert again.to_bytes() == checkpoint.to_bytes()


def test_a_checkpoint_without_one_has_the_bytes_that_it_always_had(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary
) -> None:
    document = Checkpoint(tiny, toy_vocabulary, toy_weights, {}).to_bytes()

    assert "anchor.rows" not in load(document)
    assert Checkpoint.from_bytes(document).anchor is None


def test_rows_that_could_not_be_measured_are_refused_with_the_reason(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    good = toy_messages(2)
    unknown, negative, silent = good.copy(), good.copy(), np.full_like(good, EOS)
    unknown[1, 1], negative[1, 1], silent[:, 0] = len(toy_vocabulary), -1, BOS
    too_wide = np.full((1, MAX_ANCHOR_COLUMNS + 1), 5, np.int32)
    too_many = np.full((MAX_ANCHOR_ROWS + 1, 3), 5, np.int32)
    shapes = (good[0], good[:0], good[:, :1], too_wide, too_many)

    problems = [anchor_problem(rows, toy_vocabulary) for rows in (unknown, negative, silent, *shapes)]

    assert all(problems)
    assert not anchor_problem(good, toy_vocabulary)
    with pytest.raises(CheckpointError, match="not in a vocabulary of 64 words") as caught:
        replace(Checkpoint(tiny, toy_vocabulary, toy_weights), anchor=unknown)
    assert caught.value.code == "anchor"
