"""Scoring: for each word typed, its rank among a model's suggestions and its probability.

A rank is counted, never sorted: it is the number of displayable words that scored above the target. Every
model that gives log-probabilities is measured by the same counting: a network, an n-gram model, a blend of
both.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keyflock_models.arrays import F32, I32, Bool
from keyflock_models.text.special_tokens import BOS, PAD

#: Number of targets scored at a time, so that a block of (T, V) log-probabilities stays near a processor's
#: cache.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """One entry for each target of some sequences (all but PAD and BOS), row by row."""

    #: Row and column in the sequences: the target is `sequences[row, column + 1]`. Shape (T,).
    row: I32
    column: I32
    #: Ids of the words typed. Shape (T,).
    target: I32
    #: Number of displayable words scored above the target; 0 is the first suggestion. Shape (T,).
    rank: I32
    #: Whether no entry of the whole vocabulary, special tokens included, scored above the target. Shape (T,).
    is_argmax: Bool
    #: Negative log-probability of the target, nats. Shape (T,).
    nll: F32


class Scorer(Protocol):
    """A model that predicts the next word."""

    def score(self, sequences: I32) -> TokenScores:
        """Score every target of these sequences, shape (N, L + 1)."""
        ...

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:
        """Return the log-probabilities of all words at some positions.

        Args:
            sequences: Rows of ids. Shape (N, L + 1).
            row: The rows of the positions. Shape (T,).
            column: The columns; the prediction is of `sequences[row, column + 1]` from all before it.
                Shape (T,).
        Returns:
            Shape (T, V).
        """
        ...


def targets_of(sequences: I32) -> tuple[I32, I32]:
    """Return rows and columns of the targets: every position whose next id is neither PAD nor BOS."""
    row, column = np.nonzero((sequences[:, 1:] != PAD) & (sequences[:, 1:] != BOS))
    return row.astype(np.int32), column.astype(np.int32)


def rank_targets(scores: F32, targets: I32, is_displayable: Bool) -> tuple[I32, Bool]:
    """Count the words above each target.

    Args:
        scores: One row of scores per target: log-probabilities, or anything that rises with them.
            Shape (T, V).
        targets: The targets' ids. Shape (T,).
        is_displayable: Which ids may be suggested. Shape (V,).
    Returns:
        The targets' ranks among displayable words, and whether each is the best of the whole vocabulary.
    Guarantees:
        Ties go to the smaller id, as in a stable sort, so that a model that scores all words alike gains
        nothing.
    """
    at = np.take_along_axis(scores, targets[:, None], axis=1)
    above = (scores > at) | ((scores == at) & (np.arange(scores.shape[1]) < targets[:, None]))
    return (above & is_displayable).sum(axis=1, dtype=np.int32), ~above.any(axis=1)


def score_by_log_probabilities(scorer: Scorer, sequences: I32, is_displayable: Bool) -> TokenScores:
    """Score every target by the scorer's own log-probabilities, block by block.

    It is for scorers without a faster way; a network ranks on the device (see `neural_scorer`).
    """
    row, column = targets_of(sequences)
    target = sequences[row, column + 1]
    rank, nll = np.zeros(len(row), np.int32), np.zeros(len(row), np.float32)
    is_argmax = np.zeros(len(row), np.bool_)
    for start in range(0, len(row), _BLOCK):
        at = slice(start, start + _BLOCK)
        block = scorer.log_probabilities(sequences, row[at], column[at])
        rank[at], is_argmax[at] = rank_targets(block, target[at], is_displayable)
        nll[at] = -np.take_along_axis(block, target[at][:, None], axis=1)[:, 0]
    return TokenScores(row, column, target, rank, is_argmax, nll)
