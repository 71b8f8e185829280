import numpy as np
import pytest

from keyflock_models.arrays import I32
from keyflock_models.evaluation.measures import evaluate, summed_by_user
from keyflock_models.evaluation.scoring import TokenScores
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.text.vocabulary import Vocabulary


def scores(target: list[int], rank: list[int], *, first: list[bool], nll: list[float]) -> TokenScores:
    places = np.arange(len(target), dtype=np.int32)
    return TokenScores(
        row=places,
        column=np.zeros_like(places),
        target=np.array(target, np.int32),
        rank=np.array(rank, np.int32),
        is_argmax=np.array(first),
        nll=np.array(nll, np.float32),
    )


def test_each_measure_counts_the_targets_that_it_says() -> None:
    # A user types four words, one of them unknown, and sends.
    typed = scores(
        [9, 8, 7, 3, 2],
        [0, 2, 9, 0, 0],
        first=[True, False, False, True, True],
        nll=[1.0, 2.0, 6.0, 0.5, 0.25],
    )

    found = summed_by_user(("ada",), np.zeros(5, np.int64), typed)

    assert found.recall_at_1.micro == 1 / 4
    assert found.recall_at_3.micro == 2 / 4
    assert found.mrr_at_10.micro == pytest.approx((1 + 1 / 3 + 1 / 10) / 4)
    assert found.acc_masked.micro == 1 / 3
    assert found.oov_rate.micro == 1 / 4
    assert found.nll.micro == 3.0
    assert found.perplexity == pytest.approx(np.exp(3.0))


@pytest.mark.parametrize(
    ("rank", "at_1", "at_3", "reciprocal"),
    [
        (0, 1, 1, 1.0),
        (1, 0, 1, 1 / 2),
        (2, 0, 1, 1 / 3),
        (3, 0, 0, 1 / 4),
        (9, 0, 0, 1 / 10),
        (10, 0, 0, 0.0),
    ],
)
def test_a_rank_counts_up_to_its_measures_last_place(
    rank: int, at_1: int, at_3: int, reciprocal: float
) -> None:
    found = summed_by_user(("a",), np.zeros(1, np.int64), scores([9], [rank], first=[False], nll=[1]))

    assert (found.recall_at_1.micro, found.recall_at_3.micro) == (at_1, at_3)
    assert found.mrr_at_10.micro == reciprocal


def test_micro_weighs_words_and_mean_weighs_users() -> None:
    owner = np.array([0, 0, 0, 1], np.int64)

    found = summed_by_user(
        ("much", "little"), owner, scores([9] * 4, [0, 0, 0, 5], first=[True] * 4, nll=[1.0] * 4)
    )

    assert found.recall_at_1.micro == 0.75
    assert found.recall_at_1.mean == 0.5
    assert found.summary()["recall_at_1"] == {"micro": 0.75, "mean": 0.5, "p5": 0.05, "p50": 0.5, "p95": 0.95}
    assert found.summary()["perplexity"]["p50"] == pytest.approx(np.e)


def test_users_are_measured_each_on_their_own_sequences(toy_vocabulary: Vocabulary) -> None:
    model = UnigramModel(toy_vocabulary, toy_vocabulary.log_frequencies)
    sequences = {
        "says the first word": np.array([[1, 4, 4, 2]], np.int32),
        "says nothing": np.zeros((0, 4), np.int32),
        "says the fifth word": np.array([[1, 8, 2, 0], [1, 8, 8, 2]], np.int32),
        "sends without a word": np.array([[1, 2, 0, 0]], np.int32),
    }

    found = evaluate(model, sequences)

    assert found.users == tuple(sequences)
    assert found.recall_at_1.numerator.tolist() == [2, 0, 0, 0]
    assert found.recall_at_1.denominator.tolist() == [2, 0, 3, 0]
    assert found.recall_at_3.values.tolist() == [1, 0]


@pytest.mark.parametrize("sequences", [{}, {"silent": np.zeros((0, 4), np.int32)}])
def test_nobody_who_typed_anything_has_no_measures(
    toy_vocabulary: Vocabulary, sequences: dict[str, I32]
) -> None:
    found = evaluate(UnigramModel(toy_vocabulary, toy_vocabulary.log_frequencies), sequences)

    assert found.users == tuple(sequences)
    assert np.isnan(found.recall_at_1.micro)
    assert np.isnan(found.summary()["recall_at_3"]["p5"])
