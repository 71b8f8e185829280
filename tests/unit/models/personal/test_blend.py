import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_models.arrays import F32, F64
from keyflock_models.personal.blend import (
    CACHE,
    EXPERTS,
    HEAD,
    NGRAM,
    TRUNK,
    BlendPrior,
    BlendWeights,
    blended,
    expert_probabilities,
)
from keyflock_models.personal.history import MATCH_BUCKETS, HistoryPrediction, UserHistory
from keyflock_models.personal.priors import DEFAULT_BLEND
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import BOS, OOV

SIZE = 12


def mixture(**shares: float) -> F64:
    row = [shares.get(expert, 0.0) for expert in EXPERTS]
    return np.repeat(np.array([row]), MATCH_BUCKETS, axis=0)


def even(rows: int = 1) -> F32:
    return np.full((rows, SIZE), 1 / SIZE, np.float32)


def history_of(*sentences: list[int]) -> UserHistory:
    history = UserHistory()
    for sentence in sentences:
        history.observe(sentence)
    return history


def test_probabilities_are_mixed() -> None:
    prediction = HistoryPrediction(
        np.array([5, 6], np.int32), np.array([0.3, 0.1]), 0.6, np.array([0.0, 1.0]), 2
    )
    weights = mixture(trunk=0.5, ngram=0.3, cache=0.2)

    row = blended(even(), [prediction], weights, SIZE)[0]

    neural = (0.5 + 0.3 * 0.6) / SIZE
    assert row[4] == pytest.approx(neural)
    assert row[5] == pytest.approx(neural + 0.3 * 0.3)
    assert row[6] == pytest.approx(neural + 0.3 * 0.1 + 0.2)


def test_without_a_history_the_trunk_speaks_alone() -> None:
    row = blended(even(), [None], mixture(trunk=0.1, ngram=0.9), SIZE)

    assert row.tolist() == even().tolist()


def test_without_a_head_the_trunk_takes_its_weight() -> None:
    prediction = history_of([5]).predict(BOS, BOS)
    weights = mixture(trunk=0.2, head=0.6, ngram=0.2)

    without = blended(even(), [prediction], weights, SIZE)
    same = blended(even(), [prediction], weights, SIZE, head=even())

    np.testing.assert_allclose(without, same, rtol=1e-6)


@given(
    st.lists(st.lists(st.integers(OOV, SIZE + 4), max_size=6), min_size=1, max_size=8),
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    st.integers(0, SIZE + 4),
    st.booleans(),
)
def test_every_blend_adds_up_to_one(
    sentences: list[list[int]], shares: list[float], last: int, has_head: bool
) -> None:
    weights = mixture(**dict(zip(EXPERTS, np.array(shares) / sum(shares), strict=True)))
    rng = np.random.default_rng(0)
    trunk, head = (rng.dirichlet(np.ones(SIZE), 1).astype(np.float32) for _ in range(2))

    prediction = history_of(*sentences).predict(BOS, last)
    row = blended(trunk, [prediction], weights, SIZE + 5, head if has_head else None)[0]

    assert row.sum() == pytest.approx(1.0, abs=1e-5)
    assert (row >= 0).all()


def test_what_the_network_gives_to_unknown_words_stays_there() -> None:
    prediction = history_of([SIZE, SIZE, SIZE, SIZE + 1]).predict(9, 9)

    row = blended(even(), [prediction], mixture(trunk=0.5, cache=0.5), SIZE + 2)[0]

    assert row[OOV] == pytest.approx(0.5 / SIZE)
    # The cache's half is shared by the two words that were typed, as recently as each was.
    assert row[SIZE] + row[SIZE + 1] == pytest.approx(0.5)
    assert row[SIZE] > row[SIZE + 1]


def test_weights_begin_as_the_populations() -> None:
    weights = BlendWeights(DEFAULT_BLEND)

    np.testing.assert_allclose(weights.current(), DEFAULT_BLEND.weights)


def test_the_expert_that_was_right_is_believed_more() -> None:
    weights = BlendWeights(BlendPrior(mixture(trunk=0.7, ngram=0.2, cache=0.1), strength=50.0))

    for _ in range(200):
        weights.learn([4], np.array([[0.01, 0.01, 0.4, 0.01]]))

    assert weights.current()[4, NGRAM] > 0.7
    # Places with another match learned nothing.
    assert weights.current()[0].tolist() == pytest.approx([0.7, 0.0, 0.2, 0.1])


def test_em_finds_the_mixture_that_the_words_came_from() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.5, 0.0, 0.35, 0.15])
    experts = rng.dirichlet(np.full(50, 0.2), 4)
    words = rng.choice(50, 8_000, p=truth @ experts)
    weights = BlendWeights(BlendPrior(mixture(trunk=0.7, ngram=0.15, cache=0.15), strength=10.0))

    for word in words:
        weights.learn([1], experts[None, :, word])

    assert weights.current()[1].tolist() == pytest.approx(truth.tolist(), abs=0.06)


def test_the_trunk_always_keeps_a_tenth() -> None:
    weights = BlendWeights(BlendPrior(mixture(trunk=0.5, cache=0.5), strength=1.0))

    for _ in range(500):
        weights.learn([0], np.array([[1e-9, 1e-9, 1e-9, 1.0]]))

    assert weights.current()[0, TRUNK] == pytest.approx(0.1)
    assert weights.current()[0, CACHE] == pytest.approx(0.9, abs=1e-6)


def test_the_loss_against_the_trunk_is_bounded_by_its_weight() -> None:
    trunk = even()
    prediction = history_of([5, 5, 5]).predict(BOS, 5)
    weights = BlendWeights(DEFAULT_BLEND).current()

    row = blended(trunk, [prediction], weights, SIZE)[0]

    assert prediction is not None
    assert (row >= weights[prediction.match, TRUNK] * trunk[0] * (1 - 1e-6)).all()


def test_unknown_words_teach_nothing() -> None:
    matches, given_ = expert_probabilities(even(2), [OOV, 5], [None, history_of([5]).predict(9, 9)], None)

    assert matches == [0]
    assert given_[0, TRUNK] == given_[0, HEAD] == pytest.approx(1 / SIZE)
    assert given_[0, CACHE] == pytest.approx(1.0)


def test_a_prior_is_a_mixture() -> None:
    with pytest.raises(ValueError, match="one mixture"):
        BlendPrior(mixture(trunk=0.5))
    with pytest.raises(ValueError, match="strength"):
        BlendPrior(mixture(trunk=1.0), strength=0.0)


@pytest.mark.parametrize(
    "state",
    [
        None,
        np.zeros((2, 2), np.float32),
        np.zeros((MATCH_BUCKETS, len(EXPERTS))),
        np.full((MATCH_BUCKETS, len(EXPERTS)), -1.0, np.float32),
        np.full((MATCH_BUCKETS, len(EXPERTS)), np.nan, np.float32),
    ],
)
def test_stored_weights_that_are_no_counts_are_refused(state: object) -> None:
    with pytest.raises(PersonalStateError):
        BlendWeights.from_state(state, DEFAULT_BLEND)
