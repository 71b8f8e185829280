"""How well a model foresaw each word: the rank of what was typed among the suggestions, and its probability.

Ranks are counted, never sorted: how many displayable words scored above the target. Whatever gives
log-probabilities can be measured (a network, an n-gram model, a blend of both), always by the same counting.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keyflock_models.arrays import F32, I32, Bool
from keyflock_models.special_tokens import BOS, PAD

#: Targets scored at a time, so that a block of (T, V) log-probabilities stays within a processor's cache
#: reach.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """One entry for each target of some sequences (all but PAD and BOS), row by row."""

    #: Row of the sequences, and column: the target is `sequences[row, column + 1]`. Shape (T,).
    row: I32
    column: I32
    #: What was typed. Shape (T,).
    target: I32
    #: Displayable words scored above the target; 0 is the first suggestion. Shape (T,).
    rank: I32
    #: Whether no entry of the whole vocabulary, special tokens included, scored above the target. Shape (T,).
    is_argmax: Bool
    #: Negative log-probability of the target, nats. Shape (T,).
    nll: F32


class Scorer(Protocol):
    """Anything that foresees the next word."""

    def score(self, sequences: I32) -> TokenScores:
        """Score every target of these sequences, shape (N, L + 1)."""
        ...

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:
        """Log-probabilities of every word at some places.

        Args:
            sequences: Rows of ids, shape (N, L + 1).
            row: Shape (T,).
            column: Shape (T,); the prediction is of `sequences[row, column + 1]` from what stands before it.
        Returns:
            Shape (T, V).
        """
        ...


def targets_of(sequences: I32) -> tuple[I32, I32]:
    """Rows and columns of the targets in sequences: every place whose next id is neither PAD nor BOS."""
    row, column = np.nonzero((sequences[:, 1:] != PAD) & (sequences[:, 1:] != BOS))
    return row.astype(np.int32), column.astype(np.int32)


def rank_targets(scores: F32, targets: I32, is_displayable: Bool) -> tuple[I32, Bool]:
    """Count what stands above each target.

    Args:
        scores: One row of scores a target, larger is more likely; log-probabilities or anything that rises
        with them.
            Shape (T, V).
        targets: Ids, shape (T,).
        is_displayable: Which ids may be suggested, shape (V,).
    Returns:
        The targets' ranks among displayable words, and whether they are the first of the whole vocabulary.
    Guarantees:
        Ties go to the smaller id, as a stable sort would have it: a model that scores all words alike is no
        oracle.
    """
    at = np.take_along_axis(scores, targets[:, None], axis=1)
    above = (scores > at) | ((scores == at) & (np.arange(scores.shape[1]) < targets[:, None]))
    return (above & is_displayable).sum(axis=1, dtype=np.int32), ~above.any(axis=1)


def score_by_log_probabilities(scorer: Scorer, sequences: I32, is_displayable: Bool) -> TokenScores:
    """Score every target by the scorer's own log-probabilities, block by block.

    For scorers without a shorter way; a network ranks where its logits are (see `neural_scorer`).
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
