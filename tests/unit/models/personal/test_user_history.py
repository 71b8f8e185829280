import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_models.personal.history import MATCH_BUCKETS, HistoryPrediction, UserHistory
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import BOS, OOV

SENTENCES = st.lists(st.lists(st.integers(OOV, 30), max_size=8), min_size=1, max_size=12)


def given_to(prediction: HistoryPrediction | None, word: int) -> float:
    assert prediction is not None
    return float(prediction.ngram[prediction.ids.tolist().index(word)])


def test_who_has_typed_nothing_has_no_prediction() -> None:
    assert UserHistory().predict(BOS, BOS) is None


def test_the_ngram_is_witten_bells() -> None:
    history = UserHistory()
    history.observe([5, 6])
    history.observe([5, 7])

    after_5 = history.predict(BOS, 5)

    # After 5, and after BOS 5: 2 words of 2 kinds. No word is worth quite one: counts are halved after 20,000
    # words.
    bigram, trigram = 1 / 4, 1 / 4
    assert given_to(after_5, 7) == pytest.approx(trigram + 2 / 4 * bigram, rel=1e-3)
    assert after_5 is not None
    assert after_5.floor == pytest.approx(2 / 4 * 2 / 4, rel=1e-3)


@given(SENTENCES, st.integers(0, 30), st.integers(0, 30))
def test_everything_adds_up_to_one(sentences: list[list[int]], before: int, last: int) -> None:
    history = UserHistory()
    for sentence in sentences:
        history.observe(sentence)

    prediction = history.predict(before, last)

    if prediction is None:
        assert all(word <= OOV for sentence in sentences for word in sentence)
        return
    assert prediction.ngram.sum() + prediction.floor == pytest.approx(1.0)
    assert prediction.cache.sum() == pytest.approx(1.0)
    assert (prediction.ngram >= 0).all()
    assert 0 <= prediction.match < MATCH_BUCKETS


def test_the_match_tells_how_well_the_history_knows_the_context() -> None:
    history = UserHistory()
    history.observe([5, 6])
    matches = [history.predict(9, 9), history.predict(9, 5), history.predict(BOS, 5)]
    for _ in range(9):
        history.observe([5, 6])

    later = [history.predict(9, 5), history.predict(BOS, 5)]

    assert [one.match for one in matches if one] == [0, 1, 4]
    assert [one.match for one in later if one] == [3, 6]


def test_what_was_typed_just_now_is_in_the_cache_most() -> None:
    history = UserHistory()
    history.observe([5] + [8] * 70)
    history.observe([6])

    prediction = history.predict(BOS, BOS)

    assert prediction is not None
    by_word = dict(zip(prediction.ids.tolist(), prediction.cache.tolist(), strict=True))
    # Half after 70 words.
    assert by_word[6] / by_word[5] == pytest.approx(2.0 ** (71 / 70))


@given(SENTENCES, st.integers(OOV + 1, 30))
def test_a_forgotten_word_is_in_no_state(sentences: list[list[int]], word: int) -> None:
    history = UserHistory()
    for sentence in sentences:
        history.observe(sentence)

    history.forget({word})

    state = history.to_state()
    ids = np.asarray(state["ids"])
    assert word not in ids
    for name in ("bigrams", "trigrams"):
        rows = np.asarray(state[name])
        assert word not in rows[:, :-1]
        assert word not in ids[rows[:, -1]]


def test_after_all_recent_words_are_forgotten_the_cache_is_what_is_left() -> None:
    history = UserHistory()
    history.observe([5, 6, 6])
    for _ in range(40):
        history.observe([9] * 2_000)

    history.forget({9})

    prediction = history.predict(BOS, BOS)
    assert prediction is not None
    assert prediction.cache.tolist() == pytest.approx([1 / 3, 2 / 3], rel=0.01)


def test_tables_stay_bounded_and_lose_the_rarest() -> None:
    history = UserHistory(max_entries=50)
    for _ in range(5):
        history.observe([7, 8, 9])
    for word in range(100, 400):
        history.observe([word, word + 1])

    state = history.to_state()

    assert len(np.asarray(state["ids"])) <= 50
    assert len(np.asarray(state["bigrams"])) <= 50
    assert len(np.asarray(state["trigrams"])) <= 50
    prediction = history.predict(7, 8)
    assert prediction is not None
    assert prediction.match == 6
    assert given_to(prediction, 9) > 0.7


def test_long_use_keeps_the_numbers_finite() -> None:
    history = UserHistory()
    for _ in range(50):
        history.observe([5, 6] * 1_000)
    history.observe([5, 7])

    state = history.to_state()

    # 100,000 words with a half-life of 20,000: a geometric sum of about 28,850, halved over two words.
    assert np.asarray(state["unigrams"])[0] == pytest.approx(13_980, rel=0.01)
    assert np.isfinite(np.asarray(state["cache"])).all()


@given(SENTENCES)
def test_the_state_gives_the_same_predictions(sentences: list[list[int]]) -> None:
    history = UserHistory()
    for sentence in sentences:
        history.observe(sentence)

    again = UserHistory.from_state(history.to_state(), end_id=31)

    for before, last in ((BOS, BOS), (BOS, 5), (5, 6)):
        one, other = history.predict(before, last), again.predict(before, last)
        assert (one is None) == (other is None)
        if one and other:
            assert one.match == other.match
            np.testing.assert_allclose(other.ngram, one.ngram, rtol=2e-3)
            np.testing.assert_allclose(other.cache, one.cache, rtol=2e-3)


def state_of(sentence: list[int]) -> dict[str, object]:
    history = UserHistory()
    history.observe(sentence)
    return history.to_state()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ids": np.array([5, 5], np.int32)}, "distinct ids"),
        ({"ids": np.array([5, 99], np.int32)}, "distinct ids"),
        ({"ids": np.array([5, OOV], np.int32)}, "distinct ids"),
        ({"ids": [5, 6]}, "no array of int32"),
        ({"unigrams": np.array([1], np.float16)}, "not 2 counts"),
        ({"unigrams": np.array([1, np.nan], np.float16)}, "not 2 counts"),
        ({"cache": np.array([1, -1], np.float16)}, "not 2 counts"),
        ({"cache": np.array([1, np.inf], np.float16)}, "not 2 counts"),
        ({"bigrams": np.zeros((2, 3), np.int32)}, "entries"),
        ({"bigrams": np.array([[1, 0], [1, 2]], np.int32)}, "not there"),
        ({"bigrams": np.array([[-1, 0], [1, 1]], np.int32)}, "not there"),
        ({"trigrams_worth": np.zeros(1, np.float16)}, "not 2 counts"),
    ],
)
def test_a_state_that_cannot_be_one_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(PersonalStateError, match=reason):
        UserHistory.from_state(state_of([5, 6]) | change, end_id=31)


def test_a_state_that_is_no_map_is_refused() -> None:
    with pytest.raises(PersonalStateError, match="no map"):
        UserHistory.from_state(None, end_id=31)
