import numpy as np
import pytest

from keyflock_models.training.candidates import candidate_words


def test_every_own_word_is_a_candidate_with_certainty() -> None:
    own = np.array([900, 5, 5, 77, 900], np.int32)

    words = candidate_words(own, 1_000, 100, np.random.default_rng(0))

    at = np.searchsorted(words.ids, [5, 77, 900])
    assert words.ids[at].tolist() == [5, 77, 900]
    assert words.log_inclusion[at].tolist() == [0, 0, 0]


def test_candidates_are_ascending_distinct_and_of_few_sizes() -> None:
    rng = np.random.default_rng(1)

    sizes = set()
    for own_count in range(1, 300, 7):
        words = candidate_words(rng.integers(0, 5_000, own_count, dtype=np.int32), 5_000, 200, rng)
        assert (np.diff(words.ids) > 0).all()
        sizes.add(len(words.ids))

    assert sizes <= {256, 384, 512, 768}


@pytest.mark.parametrize("negatives", [0, 990, 100_000])
def test_no_negatives_or_as_many_as_there_are_words_is_the_full_softmax(negatives: int) -> None:
    words = candidate_words(np.array([3], np.int32), 1_000, negatives, np.random.default_rng(0))

    assert np.array_equal(words.ids, np.arange(1_000))
    assert not words.log_inclusion.any()


def test_words_are_sampled_as_often_as_their_inclusion_probability_says() -> None:
    # One word strays by more than 5.5 standard deviations by chance with probability 4e-8 (normal tails; the
    # rarest word is expected 40 times), so any of 2,000 words does with less than 1e-3. The seed is fixed.
    rng, draws = np.random.default_rng(2), 2_000
    counts, probability = np.zeros(2_000), np.zeros(2_000)

    for _ in range(draws):
        words = candidate_words(np.array([0, 1, 2], np.int32), 2_000, 200, rng)
        counts[words.ids] += 1
        probability[words.ids] = np.exp(words.log_inclusion)

    assert probability.min() > 0
    spread = np.sqrt(draws * probability * (1 - probability))
    assert (np.abs(counts - draws * probability) <= 5.5 * spread + 1e-3).all()


def test_the_corrected_sum_estimates_the_whole_vocabularys_without_bias() -> None:
    # The mean of 400 estimates is within 4.5 standard errors of the truth but for a probability of 7e-6.
    rng = np.random.default_rng(3)
    logits = rng.normal(size=2_000)

    estimates = []
    for _ in range(400):
        words = candidate_words(np.array([10, 500], np.int32), 2_000, 200, rng)
        estimates.append(np.exp(logits[words.ids] - words.log_inclusion).sum())

    error = np.std(estimates) / 20
    assert abs(np.mean(estimates) - np.exp(logits).sum()) < 4.5 * error


def test_the_sample_is_the_generators() -> None:
    one, same, other = (
        candidate_words(np.array([1], np.int32), 1_000, 99, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )

    assert np.array_equal(one.ids, same.ids)
    assert not np.array_equal(one.ids, other.ids)
