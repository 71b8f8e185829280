from collections.abc import Callable

import numpy as np
import pytest

from keyflock_models.arrays import I32
from keyflock_models.evaluation.scoring import targets_of
from keyflock_models.evaluation.trigram import KneserNeyTrigram, _discounts
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.text.vocabulary import Vocabulary


def test_the_unigram_counts_targets_over_a_public_prior(toy_vocabulary: Vocabulary) -> None:
    rows = np.array([[1, 9, 9, 2]], np.int32)

    model = UnigramModel.fit(rows, toy_vocabulary, public_weight=1.0)

    prior = np.exp(toy_vocabulary.log_frequencies.astype(np.float64))
    assert np.exp(model.log_distribution[9]) == pytest.approx((2 + prior[9]) / 4, rel=1e-5)
    assert np.exp(model.log_distribution[10]) == pytest.approx(prior[10] / 4, rel=1e-5)


def test_trigram_probabilities_add_up_to_one_in_seen_and_unseen_contexts(
    toy_vocabulary: Vocabulary, toy_messages: Callable[..., I32]
) -> None:
    model = KneserNeyTrigram.fit(toy_messages(300, words=20), toy_vocabulary)
    unseen = toy_messages(40, seed=1)

    found = model.log_probabilities(unseen, *targets_of(unseen))

    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(found).all()


def test_a_trigram_probability_is_that_of_the_interpolated_formula(toy_vocabulary: Vocabulary) -> None:
    # Too little text for estimated discounts: 0.75 everywhere.
    # Trigrams: (s,s)A twice, (s,A)B, (s,A)C, (A,B)end, (A,C)end.
    a, b, c, end = 4, 5, 6, 2
    rows = np.array([[1, a, b, end], [1, a, c, end]], np.int32)
    model = KneserNeyTrigram.fit(rows, toy_vocabulary)

    after_a = np.exp(model.log_probabilities(rows[:1], np.zeros(1, np.int32), np.ones(1, np.int32))[0])

    # Continuations: A, B, C have one left neighbour each, the end has two; five bigram types in all.
    public = np.exp(toy_vocabulary.log_frequencies.astype(np.float64))
    public /= public.sum()
    unigram_b = (1 - 0.75 + 4 * 0.75 * public[b]) / 5
    bigram_b = (1 - 0.75) / 2 + (2 * 0.75) / 2 * unigram_b
    assert after_a[b] == pytest.approx((1 - 0.75) / 2 + (2 * 0.75) / 2 * bigram_b, rel=1e-5)


def test_a_word_that_follows_one_word_only_is_not_expected_elsewhere(toy_vocabulary: Vocabulary) -> None:
    # "b" is as frequent as "d", but always after "a"; "d" has many left neighbours.
    a, b, d = 4, 5, 7
    rows = [[1, a, b, 2]] * 20 + [[1, 10 + i, d, 2] for i in range(20)]
    model = KneserNeyTrigram.fit(np.array(rows, np.int32), toy_vocabulary)

    elsewhere = np.array([[1, 60, 61, 62]], np.int32)
    found = model.log_probabilities(elsewhere, np.zeros(1, np.int32), np.array([2], np.int32))[0]

    assert found[d] > found[b] + 1


def test_a_repeated_phrase_is_learnt(toy_vocabulary: Vocabulary) -> None:
    rows = np.tile(np.array([[1, 9, 17, 33, 2]], np.int32), (10, 1))

    scores = KneserNeyTrigram.fit(rows, toy_vocabulary).score(rows[:1])

    assert scores.rank[:3].tolist() == [0, 0, 0]
    assert (scores.nll < 0.3).all()


def test_discounts_are_the_published_estimates_within_what_makes_sense() -> None:
    counts = np.repeat([1, 2, 3, 4], [100, 40, 20, 10])

    y = 100 / 180
    expected = [0, 1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.5]
    np.testing.assert_allclose(_discounts(counts), expected)
    assert _discounts(np.array([1, 1, 2])).tolist() == [0, 0.75, 0.75, 0.75]


def test_a_trigram_of_no_text_is_refused(toy_vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="no text"):
        KneserNeyTrigram.fit(np.zeros((0, 5), np.int32), toy_vocabulary)
