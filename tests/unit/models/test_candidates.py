import numpy as np
import pytest

from keyflock_models.training.candidates import _systematic_sample, candidate_words


def test_every_own_word_is_a_candidate_with_certainty() -> None:
    own = np.array([900, 5, 5, 77, 900], np.int32)

    words = candidate_words(own, 1_000, 100, np.random.default_rng(0))

    at = np.searchsorted(words.ids, [5, 77, 900])
    assert words.ids[at].tolist() == [5, 77, 900]
    assert words.log_inclusion[at].tolist() == [0, 0, 0]
    assert [words.ids.dtype, words.log_inclusion.dtype] == [np.dtype(np.int32), np.dtype(np.float32)]


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
    assert [words.ids.dtype, words.log_inclusion.dtype] == [np.dtype(np.int32), np.dtype(np.float32)]
    assert not words.log_inclusion.any()


@pytest.mark.parametrize(
    ("own", "negatives", "size"),
    [(56, 200, 256), (57, 200, 384), (184, 200, 384), (185, 200, 512), (312, 200, 512), (313, 200, 768)],
)
def test_a_size_is_kept_up_to_its_last_word(own: int, negatives: int, size: int) -> None:
    words = candidate_words(np.arange(own, dtype=np.int32), 5_000, negatives, np.random.default_rng(0))

    assert len(words.ids) == size


@pytest.mark.parametrize(("vocabulary_size", "is_full"), [(255, True), (256, True), (257, False)])
def test_a_sample_as_large_as_the_vocabulary_is_the_full_softmax(vocabulary_size: int, is_full: bool) -> None:
    words = candidate_words(np.array([3], np.int32), vocabulary_size, 1, np.random.default_rng(0))

    assert len(words.ids) == min(vocabulary_size, 256)
    assert (not words.log_inclusion.any()) == is_full


def test_the_chance_of_a_word_falls_with_the_power_0_75_of_its_rank() -> None:
    words = candidate_words(np.array([0], np.int32), 20_000, 200, np.random.default_rng(4))
    is_uncertain = words.log_inclusion < 0
    rank = 1.0 + words.ids[is_uncertain]

    slope = np.diff(words.log_inclusion[is_uncertain]) / np.diff(np.log(rank))

    # The spacing of two neighbouring ranks may be small, so float32 leaves the slope two digits.
    assert is_uncertain.sum() > 100
    np.testing.assert_allclose(slope[np.diff(np.log(rank)) > 1e-3], -0.75, atol=5e-3)


def test_the_first_word_in_the_order_is_not_always_drawn() -> None:
    # A sample that began at a fixed point would draw the rare word whenever it is first in the order: half of
    # the time. It strays by 5 standard deviations with probability 6e-7, and the seed is fixed.
    rng, draws = np.random.default_rng(5), 2_000

    rare = sum(0 in _systematic_sample(np.array([0.1, 0.9]), rng) for _ in range(draws))

    assert abs(rare - 0.1 * draws) < 5 * np.sqrt(draws * 0.1 * 0.9)


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
