"""The unigram baseline: the same prediction everywhere, words by how often they were typed."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.scoring import TokenScores, score_by_log_probabilities, targets_of
from keyflock_models.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class UnigramModel:
    """A scorer with one distribution for every position.

    `UnigramModel(vocabulary, vocabulary.log_frequencies)` is the public list itself.
    """

    vocabulary: Vocabulary
    #: The natural logarithms of the probabilities. Shape (V,).
    log_distribution: F32

    @classmethod
    def fit(cls, sequences: I32, vocabulary: Vocabulary, *, public_weight: float = 100.0) -> Self:
        """Count the targets of these sequences.

        Args:
            sequences: Rows of `encode_messages`, shape (N, L + 1).
            vocabulary: Its frequencies are the prior.
            public_weight: The prior's weight in targets; above 0, so that no word is impossible.
        """
        row, column = targets_of(sequences)
        counts = np.bincount(sequences[row, column + 1], minlength=len(vocabulary))
        blended = counts + public_weight * np.exp(vocabulary.log_frequencies.astype(np.float64))
        return cls(vocabulary, np.log(blended / blended.sum()).astype(np.float32))

    def score(self, sequences: I32) -> TokenScores:
        """Score every target of these sequences, shape (N, L + 1)."""
        return score_by_log_probabilities(self, sequences, self.vocabulary.is_displayable)

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:  # noqa: ARG002  # see Scorer
        """Return log-probabilities of all words at some positions, shape (T, V); see `Scorer`."""
        return np.broadcast_to(self.log_distribution, (len(row), len(self.vocabulary)))
