"""The trigram baseline: an interpolated, modified Kneser-Ney model, fitted by sorting integers.

The published keyboard model replaced an n-gram model too (Hard et al. 2018), so this is a fair baseline.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from keyflock_models.arrays import F32, F64, I32, I64
from keyflock_models.evaluation.scoring import TokenScores, score_by_log_probabilities, targets_of
from keyflock_models.text.special_tokens import BOS
from keyflock_models.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """One n-gram order: each context's followers, their discounted probabilities, and the mass left over."""

    #: Distinct contexts, ascending. Shape (C,).
    contexts: I64
    #: Where in `words` each context's followers begin, and the end. Shape (C + 1,).
    begins: I64
    #: Followers, ascending within a context, and the discounted probability of each. Shape (G,).
    words: I32
    probabilities: F32
    #: Mass left over, shape (C,).
    left_over: F32

    @classmethod
    def discounted(cls, contexts: I64, words: I32, counts: I64) -> Self:
        """Build an order from counted n-grams, sorted by context and word.

        Source:
            Chen and Goodman 1999, An empirical study of smoothing techniques, equation 17 (three discounts).
        """
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        distinct, firsts = np.unique(contexts, return_index=True)
        begins = np.append(firsts, len(contexts)).astype(np.int64)
        totals = np.add.reduceat(counts, firsts).astype(np.float64)
        taken = np.add.reduceat(discounts, firsts)
        shares = (counts - discounts) / np.repeat(totals, np.diff(begins))
        return cls(distinct, begins, words, shares.astype(np.float32), (taken / totals).astype(np.float32))

    def find(self, contexts: I64) -> tuple[I64, F32]:
        """Return the indices of contexts (-1: unknown), and the mass left over (1: unknown)."""
        index = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        is_known = self.contexts[index] == contexts
        return np.where(is_known, index, -1), np.where(is_known, self.left_over[index], np.float32(1))

    def add_to(self, block: F32, indices: I64, weights: F32) -> None:
        """Add `weight * probability` of each row's followers to a block of shape (T, V), in place."""
        known = np.flatnonzero(indices >= 0)
        begins = self.begins[indices[known]]
        lengths = self.begins[indices[known] + 1] - begins
        rows = np.repeat(known, lengths)
        # Indices of all followers of all rows in one array: each row's own range, one after the other.
        starts = np.cumsum(lengths) - lengths
        at = np.arange(len(rows)) - np.repeat(starts - begins, lengths)
        # No (row, word) comes twice, so plain fancy addition counts every entry.
        block[rows, self.words[at]] += weights[rows] * self.probabilities[at]


def _discounts(counts: I64) -> F64:
    """Return the discounts of n-grams seen 0, 1, 2 and 3 or more times, from the counts of counts."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        # Too little text to estimate three discounts; absolute discounting with the customary amount.
        return np.array([0.0, 0.75, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    estimates = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    # Odd counts of counts (a toy corpus) can leave the range in which a discount makes sense.
    sensible: F64 = np.clip(estimates, [0.0, 0.05, 0.05, 0.05], [0.0, 0.95, 1.95, 2.95])
    return sensible


@dataclass(frozen=True, slots=True, eq=False)
class KneserNeyTrigram:
    """A scorer that predicts a word from the two before it.

    Guarantees:
        In every context the probabilities add up to 1 and none is zero.
    """

    vocabulary: Vocabulary
    _unigram: F32
    _bigrams: _Order
    _trigrams: _Order

    @classmethod
    def fit(cls, sequences: I32, vocabulary: Vocabulary) -> Self:
        """Count the targets of these sequences in their contexts.

        Args:
            sequences: Rows of `encode_messages`, shape (N, L + 1); at least one target.
            vocabulary: Its public frequencies are what the unigram order is interpolated with.
        Raises:
            ValueError: the sequences hold no target.
        Source:
            Kneser and Ney 1995; Chen and Goodman 1999.
        """
        row, column = targets_of(sequences)
        if not len(row):
            msg = "a trigram model cannot be fitted to no text"
            raise ValueError(msg)
        size = len(vocabulary)
        before, last = _contexts(sequences, row, column)
        target = sequences[row, column + 1]
        trigrams, trigram_counts = np.unique((before * size + last) * size + target, return_counts=True)
        # Lower orders count in how many contexts a word was seen, not how often: "francisco" follows "san"
        # alone.
        bigrams, bigram_counts = np.unique(trigrams % (size * size), return_counts=True)
        unigram_counts = np.bincount(bigrams % size, minlength=size)
        discount = _discounts(unigram_counts[unigram_counts > 0])[np.minimum(unigram_counts, 3)]
        public = np.exp(vocabulary.log_frequencies.astype(np.float64))
        unigram = (unigram_counts - discount + discount.sum() * public / public.sum()) / unigram_counts.sum()
        return cls(
            vocabulary,
            unigram.astype(np.float32),
            _Order.discounted(bigrams // size, (bigrams % size).astype(np.int32), bigram_counts),
            _Order.discounted(trigrams // size, (trigrams % size).astype(np.int32), trigram_counts),
        )

    def score(self, sequences: I32) -> TokenScores:
        """Score every target of these sequences, shape (N, L + 1)."""
        return score_by_log_probabilities(self, sequences, self.vocabulary.is_displayable)

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:
        """Return log-probabilities of all words at some positions, shape (T, V); see `Scorer`."""
        before, last = _contexts(sequences, row, column)
        trigram_indices, after_trigrams = self._trigrams.find(before * len(self.vocabulary) + last)
        bigram_indices, after_bigrams = self._bigrams.find(last)
        block = np.multiply.outer(after_trigrams * after_bigrams, self._unigram)
        self._bigrams.add_to(block, bigram_indices, after_trigrams)
        self._trigrams.add_to(block, trigram_indices, np.ones(len(row), np.float32))
        logarithms: F32 = np.log(block, out=block)
        return logarithms


def _contexts(sequences: I32, row: I32, column: I32) -> tuple[I64, I64]:
    """Return the last word but one and the last word before each target; BOS is before the first."""
    before = np.where(column > 0, sequences[row, np.maximum(column - 1, 0)], BOS)
    return before.astype(np.int64), sequences[row, column].astype(np.int64)
