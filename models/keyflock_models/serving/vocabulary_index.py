"""Words by their first letters, and which of them may be shown."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from keyflock_models.arrays import I32, Bool
from keyflock_models.special_tokens import SPECIAL_TOKENS
from keyflock_models.vocabulary import Vocabulary

#: Whether a word may be suggested: where a product's own rules (a list of profanities) come in.
MayShow = Callable[[str], bool]


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyIndex:
    """A vocabulary, ready for lookups."""

    vocabulary: Vocabulary
    may_show: MayShow
    #: Shape (V,).
    is_shown: Bool
    _sorted: list[str]
    _ids: I32

    @classmethod
    def of(cls, vocabulary: Vocabulary, may_show: MayShow = lambda _word: True) -> Self:
        """An index of all words that may be shown."""
        specials = len(SPECIAL_TOKENS)
        is_shown = np.array([at >= specials and may_show(word) for at, word in enumerate(vocabulary.words)])
        ids = sorted(np.flatnonzero(is_shown).tolist(), key=vocabulary.words.__getitem__)
        words = [vocabulary.words[one] for one in ids]
        return cls(vocabulary, may_show, is_shown, words, np.array(ids, np.int32))

    def beginning(self, prefix: str) -> I32:
        """Ids of the words that begin so and may be shown."""
        low = bisect.bisect_left(self._sorted, prefix)
        high = bisect.bisect_left(self._sorted, prefix + "\U0010ffff")
        return self._ids[low:high]
