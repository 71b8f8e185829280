"""Keystroke savings: how many strokes predictions save.

The simulated user reads three suggestions before the first letter and after each one, and picks the word as
soon as it is there. A pick costs one stroke and brings its space with it; a word that is never
offered costs its letters and the space. Suggestions after k letters are the most probable words that begin
with them.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keyflock_models.arrays import F32, I32, Bool
from keyflock_models.evaluation.per_user import PerUser
from keyflock_models.evaluation.scoring import Scorer
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.vocabulary import Vocabulary

SLOTS = 3

#: Number of targets simulated at a time: a block of (T, V) scores and their running counts has to fit in
#: memory.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class KeystrokeSavings:
    """The strokes saved over the strokes of typing everything, by user."""

    users: tuple[str, ...]
    #: Savings with suggestions before the first letter and completions after each (KSR).
    all: PerUser
    #: Savings with suggestions before the first letter only, which is next-word prediction alone.
    before_typing: PerUser


class PrefixRanges:
    """The ranges of words with a common prefix in the alphabetical order.

    These words are neighbours there, so a word's rank among those with its prefix is a count over a range.
    """

    def __init__(self, words: Sequence[str], is_displayable: Bool) -> None:
        self._words = words
        by_word = sorted(np.flatnonzero(is_displayable).tolist(), key=lambda i: words[i])
        self._sorted = [words[i] for i in by_word]
        #: Ids of displayable words in alphabetical order.
        self.alphabetical: I32 = np.array(by_word, np.int32)

    def for_word(self, word_id: int) -> list[tuple[int, int]]:
        """Return the range of words with its first k letters, for k from 0 to all but the last."""
        word, low, high = self._words[word_id], 0, len(self._sorted)
        ranges = []
        for letters in range(len(word)):
            if letters:
                prefix = word[:letters]
                low = bisect_left(self._sorted, prefix, low, high)
                # The last code point is no character, so no word with the prefix sorts after this.
                high = bisect_left(self._sorted, prefix + "\U0010ffff", low, high)
            ranges.append((low, high))
        return ranges


def keystroke_savings(
    scorer: Scorer,
    vocabulary: Vocabulary,
    sequences_of_users: Mapping[str, I32],
    letters_of_users: Mapping[str, I32],
    *,
    targets_per_user: int | None = None,
    seed: int = 0,
) -> KeystrokeSavings:
    """Simulate the typing of each user's words.

    Args:
        scorer: The model.
        vocabulary: Its words.
        sequences_of_users: Rows of `encode_messages` by user, shape (N, L + 1).
        letters_of_users: `letters_in_messages` of the same messages, same shape.
        targets_per_user: Simulate a sample of this many words of each user; None is all of them.
        seed: Decides the sample.
    Edge cases:
        user without a word -> denominators of 0
    """
    rng = np.random.default_rng(seed)
    ranges = PrefixRanges(vocabulary.words, vocabulary.is_displayable)
    users = tuple(sequences_of_users)
    full, used, used_before = (np.zeros(len(users)) for _ in range(3))
    for index, user in enumerate(users):
        sequences, letters = sequences_of_users[user], letters_of_users[user]
        row, column = np.nonzero(letters[:, 1:] > 0)
        if targets_per_user is not None and len(row) > targets_per_user:
            sample = np.sort(rng.choice(len(row), targets_per_user, replace=False))
            row, column = row[sample], column[sample]
        costs = letters[row, column + 1] + 1
        target = sequences[row, column + 1]
        full[index] = costs.sum()
        # A word that the model does not have is never offered.
        is_oov = target == OOV
        used[index] = used_before[index] = costs[is_oov].sum()
        row, column, target, costs = (a[~is_oov].astype(np.int32) for a in (row, column, target, costs))
        for start in range(0, len(row), _BLOCK):
            at = slice(start, start + _BLOCK)
            block = scorer.log_probabilities(sequences, row[at], column[at])
            typed = letters_until_offered(block, target[at], ranges)
            used[index] += np.where(typed >= 0, typed + 1, costs[at]).sum()
            used_before[index] += np.where(typed == 0, 1, costs[at]).sum()
    return KeystrokeSavings(users, PerUser(full - used, full), PerUser(full - used_before, full))


def letters_until_offered(scores: F32, targets: I32, ranges: PrefixRanges) -> I32:
    """Return how many letters must be typed until a word is among the suggestions; -1 if it never is.

    Args:
        scores: The scores of all words; ties go to the smaller id. Shape (T, V).
        targets: Ids of displayable words. Shape (T,).
        ranges: The prefix ranges of the vocabulary.
    """
    at = np.take_along_axis(scores, targets[:, None], axis=1)
    alphabetical = scores[:, ranges.alphabetical]
    above = (alphabetical > at) | ((alphabetical == at) & (ranges.alphabetical < targets[:, None]))
    # counts[:, j] is how many of the first j words in alphabetical order are above the target.
    counts = np.zeros((len(targets), above.shape[1] + 1), np.int32)
    np.cumsum(above, axis=1, out=counts[:, 1:])
    typed = np.full(len(targets), -1, np.int32)
    for index, target in enumerate(targets):
        for letters, (low, high) in enumerate(ranges.for_word(int(target))):
            if counts[index, high] - counts[index, low] < SLOTS:
                typed[index] = letters
                break
    return typed
