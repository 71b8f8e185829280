"""An index of words by their first letters, and of which words may be shown."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from keyflock_models.arrays import I32, Bool
from keyflock_models.text.vocabulary import Vocabulary

#: A predicate that tells whether a word may be suggested; a product puts its own rules (profanities) here.
MayShow = Callable[[str], bool]


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyIndex:
    """A vocabulary, indexed for look-ups."""

    vocabulary: Vocabulary
    may_show: MayShow
    #: Which words may be shown. Shape (V,).
    is_shown: Bool
    _sorted: list[str]
    _ids: I32

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, may_show: MayShow = lambda _word: True) -> Self:
        """Build an index of all words that may be shown."""
        is_shown = np.array(
            [
                is_word and may_show(word)
                for is_word, word in zip(vocabulary.is_displayable, vocabulary.words, strict=True)
            ]
        )
        ids = sorted(np.flatnonzero(is_shown).tolist(), key=vocabulary.words.__getitem__)
        words = [vocabulary.words[one] for one in ids]
        return cls(vocabulary, may_show, is_shown, words, np.array(ids, np.int32))

    def with_prefix(self, prefix: str) -> I32:
        """Return the ids of the words with this prefix that may be shown."""
        low = bisect.bisect_left(self._sorted, prefix)
        high = bisect.bisect_left(self._sorted, prefix + "\U0010ffff")
        return self._ids[low:high]
