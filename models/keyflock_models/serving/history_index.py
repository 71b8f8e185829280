"""A user's history as sorted arrays: a hundredth of the memory of the one that learns, and faster to ask."""

from bisect import bisect_left
from dataclasses import dataclass
from sys import getsizeof
from typing import Self

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.history import HistoryRecall, UserHistory, match_of

#: Ids are below this; a context of two ids is one number.
_BASE = 1 << 24
_NO_PLACES: I32 = np.zeros(0, np.int32)
_NO_GAINS: F32 = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Contexts:
    """One order's contexts, ascending, and their followers one after the other."""

    #: Shape (C,), as memory: searched without making an array of each number that is looked at.
    keys: memoryview
    #: Where each context's followers begin, and where the last one's end. Shape (C + 1,).
    starts: memoryview
    #: What a context leaves to the next lower order, and its bucket (`match_of`). Shape (C,).
    shares: memoryview
    matches: memoryview
    #: Shape (K,).
    places: I32
    #: What the context gives to each of its followers; with the share, they add up to 1.
    gains: F32

    @classmethod
    def of(cls, rows: I32, worths: np.ndarray) -> Self:
        """From rows of a context's ids and a follower's place, shape (K, order)."""
        order = rows.shape[1] - 2
        keys = rows[:, 0] if order == 0 else rows[:, 0].astype(np.int64) * _BASE + rows[:, 1]
        ascending = np.argsort(keys, kind="stable")
        distinct, starts = np.unique(keys[ascending], return_index=True)
        bounds = np.append(starts, len(keys)).astype(np.int32)
        followers = np.diff(bounds)
        sorted_worths = worths.astype(np.float32)[ascending]
        # Nothing to add up where there is no context at all.
        seen = np.add.reduceat(sorted_worths, starts) if len(starts) else sorted_worths
        whole = seen + followers.astype(np.float32)
        return cls(
            distinct.data,
            bounds.data,
            (followers / whole).astype(np.float32).data,
            np.array([match_of(order, float(one)) for one in seen], np.int8).data,
            rows[ascending, -1].astype(np.int32),
            sorted_worths / np.repeat(whole, followers),
        )

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        parts = (self.keys, self.starts, self.shares, self.matches, self.places, self.gains)
        # Each is an array, four of them beneath a view.
        return sum(one.nbytes for one in parts) + 6 * getsizeof(_NO_PLACES) + 4 * getsizeof(self.keys)

    def find(self, key: int) -> int | None:
        """Which context this is; None for one that was never typed."""
        at = bisect_left(self.keys, key)
        return at if at < len(self.keys) and self.keys[at] == key else None


@dataclass(frozen=True, slots=True, eq=False)
class HistoryIndex:
    """What `UserHistory.recall` and `UserHistory.words_typed` give, from a history that learns no more."""

    #: Shape (N,).
    ids: I32
    cache: F32
    _bigrams: _Contexts
    _trigrams: _Contexts

    @classmethod
    def of(cls, history: UserHistory) -> Self:
        """An index of what was typed so far."""
        state = {name: np.asarray(value) for name, value in history.to_state().items()}
        ids, cache = history.words_typed()
        return cls(
            ids,
            cache.astype(np.float32),
            _Contexts.of(state["bigrams"], state["bigrams_worth"]),
            _Contexts.of(state["trigrams"], state["trigrams_worth"]),
        )

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        own = self.ids.nbytes + self.cache.nbytes + 2 * getsizeof(_NO_PLACES)
        return own + self._bigrams.size_bytes + self._trigrams.size_bytes

    def recall(self, before: int, last: int) -> HistoryRecall | None:
        """What is known of the word after these two; None: nothing was typed yet."""
        if not len(self.ids):
            return None
        floor, match = 1.0, 0
        places, gains = _NO_PLACES, _NO_GAINS
        for table, key in ((self._bigrams, last), (self._trigrams, before * _BASE + last)):
            at = table.find(key)
            if at is not None:
                span = slice(table.starts[at], table.starts[at + 1])
                share = table.shares[at]
                if match:
                    places = np.concatenate([places, table.places[span]])
                    gains = np.concatenate([gains * np.float32(share), table.gains[span]])
                else:
                    places, gains = table.places[span], table.gains[span]
                floor *= share
                match = table.matches[at]
        return HistoryRecall(match, floor, places, gains)
