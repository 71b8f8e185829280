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
    next_word_mixtures,
    selected_network,
    uses_head,
    without_trunk,
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


def test_an_unknown_word_teaches_nothing_where_the_history_predicts_too() -> None:
    prediction = history_of([5]).predict(9, 9)

    matches, given_ = expert_probabilities(even(3), [OOV, 5, 6], [prediction, prediction, None], None)

    assert matches == [0]
    assert given_[0, TRUNK] == given_[0, HEAD] == pytest.approx(1 / SIZE)
    assert given_[0, CACHE] == pytest.approx(1.0)


def test_each_expert_is_judged_by_what_it_gave_to_the_word() -> None:
    trunk, head = np.full((4, SIZE), 0.5, np.float32), np.full((4, SIZE), 0.25, np.float32)
    prediction = HistoryPrediction(
        np.array([5, SIZE], np.int32), np.array([0.3, 0.1]), 0.6, np.array([0.2, 0.8]), 2
    )

    # A word of the history, one that only the network knows, and one that only the history knows.
    matches, given_ = expert_probabilities(trunk, [5, 6, SIZE], [prediction] * 3, head)
    without_head = expert_probabilities(trunk, [5, 6, SIZE], [prediction] * 3, None)[1]

    assert matches == [2, 2, 2]
    np.testing.assert_allclose(given_[0], [0.5, 0.25, 0.6 * 0.5 + 0.3, 0.2])
    np.testing.assert_allclose(given_[1], [0.5, 0.25, 0.6 * 0.5, 0.0])
    np.testing.assert_allclose(given_[2], [0.0, 0.0, 0.1, 0.8])
    assert without_head[:, HEAD].tolist() == [0.5, 0.5, 0.0]


def test_evidence_counts_half_after_four_thousand_words_however_they_come() -> None:
    # Words that no expert gave a probability teach nothing by themselves, so that only the decay is left.
    prior = BlendPrior(mixture(trunk=1.0))
    at_once, one_by_one = (BlendWeights(prior, responsibilities=mixture(trunk=8.0)) for _ in range(2))

    at_once.learn([0] * 4_000, np.zeros((4_000, len(EXPERTS))))
    for _ in range(4_000):
        one_by_one.learn([0], np.zeros((1, len(EXPERTS))))

    np.testing.assert_allclose(at_once.responsibilities[:, TRUNK], 4.0)
    np.testing.assert_allclose(one_by_one.responsibilities[:, TRUNK], 4.0)


def test_a_word_shares_one_responsibility_among_the_experts() -> None:
    weights = BlendWeights(BlendPrior(mixture(trunk=0.6, ngram=0.4)))

    weights.learn([1, 2], np.array([[0.1, 0.1, 0.3, 0.1], [0.0, 0.5, 0.0, 0.5]]))

    # 0.6 * 0.1 against 0.4 * 0.3; the second word is impossible under the mixture.
    assert weights.responsibilities[1].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert not weights.responsibilities[2].any()


def test_no_word_changes_nothing() -> None:
    weights = BlendWeights(DEFAULT_BLEND, responsibilities=mixture(trunk=8.0))

    weights.learn([], np.zeros((0, len(EXPERTS))))

    assert weights.responsibilities.tolist() == mixture(trunk=8.0).tolist()


def test_the_prior_weighs_as_much_as_its_strength_in_words() -> None:
    weights = BlendWeights(BlendPrior(mixture(trunk=1.0)), responsibilities=mixture(ngram=90.0))

    assert weights.current()[0].tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0])


@pytest.mark.parametrize(("share", "trunk"), [(0.25, 0.75), (0.5, 0.5), (0.75, 0.5)])
def test_the_personal_experts_share_no_more_than_they_may(share: float, trunk: float) -> None:
    prior = BlendPrior(mixture(trunk=0.5, ngram=0.3, cache=0.2))

    row = BlendWeights(prior, max_personal_share=share).current()[0]

    assert row[TRUNK] == pytest.approx(trunk)
    assert row[NGRAM] / row[CACHE] == pytest.approx(1.5)
    assert row.sum() == pytest.approx(1.0)


def test_the_head_speaks_for_the_network_where_it_weighs_more() -> None:
    trunk, head = np.full((3, SIZE), 0.5, np.float32), np.full((3, SIZE), 0.25, np.float32)
    prediction = HistoryPrediction(np.array([5], np.int32), np.array([0.3]), 0.6, np.array([1.0]), 2)
    weights = mixture(trunk=0.2, head=0.3, ngram=0.5)

    network = selected_network(trunk, [prediction, None, prediction], weights, head)
    row = blended(trunk, [prediction], weights, SIZE, head)[0]

    assert network[:, 0].tolist() == [0.25, 0.5, 0.25]
    assert row[4] == pytest.approx((0.2 + 0.3 + 0.5 * 0.6) * 0.25)


@pytest.mark.parametrize(("trunk", "head", "uses"), [(0.5, 0.4, False), (0.4, 0.4, False), (0.4, 0.5, True)])
def test_a_tie_between_trunk_and_head_is_the_trunks(trunk: float, head: float, uses: bool) -> None:
    assert uses_head(mixture(trunk=trunk, head=head)[0]) == uses


def test_before_a_letter_is_typed_an_unknown_context_is_the_networks() -> None:
    mixtures = mixture(trunk=0.3, head=0.1, ngram=0.4, cache=0.2)

    found = next_word_mixtures(mixtures)

    assert found[0].tolist() == pytest.approx([0.75, 0.25, 0.0, 0.0])
    assert found[1:].tolist() == mixtures[1:].tolist()
    assert mixtures[0, CACHE] == 0.2
    assert next_word_mixtures(mixture(ngram=0.5, cache=0.5))[0].tolist() == [1, 0, 0, 0]


def test_the_users_own_experts_alone_are_a_mixture() -> None:
    row = mixture(trunk=0.5, head=0.1, ngram=0.3, cache=0.1)[0]

    assert without_trunk(row, has_head=True).tolist() == pytest.approx([0.0, 0.2, 0.6, 0.2])
    assert without_trunk(row, has_head=False).tolist() == pytest.approx([0.0, 0.0, 0.75, 0.25])
    assert without_trunk(mixture(trunk=1.0)[0], has_head=True).tolist() == [0, 0, 1, 0]
    assert row[TRUNK] == 0.5


def test_a_prior_is_a_mixture() -> None:
    with pytest.raises(ValueError, match="one mixture"):
        BlendPrior(mixture(trunk=0.5))
    with pytest.raises(ValueError, match="one mixture"):
        BlendPrior(mixture(trunk=1.5, ngram=-0.5))
    with pytest.raises(ValueError, match="one mixture"):
        BlendPrior(mixture(trunk=1.0)[1:])
    with pytest.raises(ValueError, match="strength"):
        BlendPrior(mixture(trunk=1.0), strength=0.0)


def test_a_priors_rows_add_up_to_one_within_a_millionth() -> None:
    one_row = mixture(trunk=1.0)
    one_row[-1, TRUNK] += 1.1e-6

    BlendPrior(mixture(trunk=1.0 + 0.9e-6), strength=1e-9)

    with pytest.raises(ValueError, match="one mixture"):
        BlendPrior(one_row)


def test_stored_weights_are_restored_up_to_their_last_count() -> None:
    state = np.full((MATCH_BUCKETS, len(EXPERTS)), 1e9, np.float32)
    state[0] = 0.0

    assert BlendWeights.from_state(state, DEFAULT_BLEND).responsibilities.tolist() == state.tolist()


@pytest.mark.parametrize(
    "state",
    [
        None,
        np.zeros((2, 2), np.float32),
        np.zeros((MATCH_BUCKETS, len(EXPERTS))),
        np.full((MATCH_BUCKETS, len(EXPERTS)), -1.0, np.float32),
        np.full((MATCH_BUCKETS, len(EXPERTS)), np.nan, np.float32),
        np.full((MATCH_BUCKETS, len(EXPERTS)), np.nextafter(np.float32(1e9), np.float32(np.inf)), np.float32),
        np.eye(MATCH_BUCKETS, len(EXPERTS), dtype=np.float32) * np.float32(-1e-30),
    ],
)
def test_stored_weights_that_are_no_counts_are_refused(state: object) -> None:
    with pytest.raises(PersonalStateError):
        BlendWeights.from_state(state, DEFAULT_BLEND)
