import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.scoring import (
    TokenScores,
    rank_targets,
    score_by_log_probabilities,
    targets_of,
)


def test_the_rank_is_how_many_displayable_words_score_higher() -> None:
    scores = np.array([[9, 8, 3, 1, 5, 4], [9, 8, 3, 1, 5, 4]], np.float32)
    displayable = np.array([False, False, True, True, True, True])

    rank, is_argmax = rank_targets(scores, np.array([3, 4], np.int32), displayable)

    assert rank.tolist() == [3, 0]
    assert rank.dtype == np.int32
    assert is_argmax.tolist() == [False, False]


def test_the_argmax_is_over_special_tokens_too() -> None:
    scores = np.array([[0, 1, 5], [0, 7, 5]], np.float32)

    _, is_argmax = rank_targets(scores, np.array([2, 2], np.int32), np.array([False, False, True]))

    assert is_argmax.tolist() == [True, False]


def test_ties_go_to_the_smaller_id() -> None:
    scores = np.zeros((3, 3), np.float32)

    rank, is_argmax = rank_targets(scores, np.array([0, 1, 2], np.int32), np.ones(3, np.bool_))

    assert rank.tolist() == [0, 1, 2]
    assert is_argmax.tolist() == [True, False, False]


def test_pad_and_bos_are_no_targets() -> None:
    row, column = targets_of(np.array([[1, 5, 2, 1, 6], [1, 2, 0, 0, 0]], np.int32))

    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 3), (1, 0)]


class KnowsTheColumn:
    """Says at column c that id c + 4 is certain to the extent of 0.9."""

    def score(self, sequences: I32) -> TokenScores:
        return score_by_log_probabilities(self, sequences, np.arange(10) >= 4)

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:  # noqa: ARG002  # of Scorer
        block = np.full((len(row), 10), np.log(0.1 / 9), np.float32)
        block[np.arange(len(row)), column + 4] = np.log(0.9)
        return block


def test_any_source_of_log_probabilities_can_be_scored_over_many_blocks() -> None:
    sequences = np.tile(np.array([[1, 4, 5, 9]], np.int32), (300, 1))

    scores = KnowsTheColumn().score(sequences)

    assert len(scores.target) == 900
    assert scores.rank.reshape(300, 3)[[0, 299]].tolist() == [[0, 0, 5]] * 2
    assert scores.is_argmax.sum() == 600
    np.testing.assert_allclose(scores.nll[:3], -np.log([0.9, 0.9, 0.1 / 9]), rtol=1e-5)
