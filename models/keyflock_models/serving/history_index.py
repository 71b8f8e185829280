"""A user's history as sorted arrays: a hundredth of the memory of a `UserHistory`, and faster to query."""

from bisect import bisect_left
from dataclasses import dataclass
from sys import getsizeof
from typing import Self

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.history import SparseHistoryPrediction, UserHistory, match_bucket

#: Ids are below this, so that a context of two ids is one number.
_BASE = 1 << 24
_NO_POSITIONS: I32 = np.zeros(0, np.int32)
_NO_GAINS: F32 = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Contexts:
    """The contexts of one n-gram order, ascending, and their followers one after the other."""

    #: The contexts' keys as memory, which is searched without an array object per number. Shape (C,).
    keys: memoryview
    #: Where each context's followers begin, and where the last one's end. Shape (C + 1,).
    starts: memoryview
    #: The share that a context leaves to the next lower order, and its bucket (`match_bucket`). Shape (C,).
    shares: memoryview
    matches: memoryview
    #: The followers' positions among the words typed. Shape (K,).
    positions: I32
    #: The probability that the context gives to each follower; with the share, they add up to 1.
    gains: F32

    @classmethod
    def from_rows(cls, rows: I32, worths: np.ndarray) -> Self:
        """Build from rows of a context's ids and a follower's position. Shape (K, order)."""
        order = rows.shape[1] - 2
        keys = rows[:, 0] if order == 0 else rows[:, 0].astype(np.int64) * _BASE + rows[:, 1]
        ascending = np.argsort(keys, kind="stable")
        distinct, starts = np.unique(keys[ascending], return_index=True)
        bounds = np.append(starts, len(keys)).astype(np.int32)
        followers = np.diff(bounds)
        sorted_worths = worths.astype(np.float32)[ascending]
        # reduceat takes no empty list of starts.
        counts = np.add.reduceat(sorted_worths, starts) if len(starts) else sorted_worths
        totals = counts + followers.astype(np.float32)
        return cls(
            distinct.data,
            bounds.data,
            (followers / totals).astype(np.float32).data,
            np.array([match_bucket(order, float(one)) for one in counts], np.int8).data,
            rows[ascending, -1].astype(np.int32),
            sorted_worths / np.repeat(totals, followers),
        )

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, approximately."""
        parts = (self.keys, self.starts, self.shares, self.matches, self.positions, self.gains)
        # Each part is an array, and four of them are under a memoryview.
        return sum(one.nbytes for one in parts) + 6 * getsizeof(_NO_POSITIONS) + 4 * getsizeof(self.keys)

    def find(self, key: int) -> int | None:
        """Return the index of a context; None for one that was never typed."""
        at = bisect_left(self.keys, key)
        return at if at < len(self.keys) and self.keys[at] == key else None


@dataclass(frozen=True, slots=True, eq=False)
class HistoryIndex:
    """A read-only index of a history, with the results of `predict_sparse` and `words_typed`."""

    #: Ids of the words typed, and their probabilities in the cache. Shape (N,) each.
    ids: I32
    cache: F32
    _bigrams: _Contexts
    _trigrams: _Contexts

    @classmethod
    def from_history(cls, history: UserHistory) -> Self:
        """Build an index of what was typed so far."""
        state = {name: np.asarray(value) for name, value in history.to_state().items()}
        ids, cache = history.words_typed()
        return cls(
            ids,
            cache.astype(np.float32),
            _Contexts.from_rows(state["bigrams"], state["bigrams_worth"]),
            _Contexts.from_rows(state["trigrams"], state["trigrams_worth"]),
        )

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, approximately."""
        own = self.ids.nbytes + self.cache.nbytes + 2 * getsizeof(_NO_POSITIONS)
        return own + self._bigrams.size_bytes + self._trigrams.size_bytes

    def predict_sparse(self, before: int, last: int) -> SparseHistoryPrediction | None:
        """Predict the word after these two; None: nothing was typed yet."""
        if not len(self.ids):
            return None
        floor, match = 1.0, 0
        positions, gains = _NO_POSITIONS, _NO_GAINS
        for table, key in ((self._bigrams, last), (self._trigrams, before * _BASE + last)):
            at = table.find(key)
            if at is not None:
                span = slice(table.starts[at], table.starts[at + 1])
                share = table.shares[at]
                if match:
                    positions = np.concatenate([positions, table.positions[span]])
                    gains = np.concatenate([gains * np.float32(share), table.gains[span]])
                else:
                    positions, gains = table.positions[span], table.gains[span]
                floor *= share
                match = table.matches[at]
        return SparseHistoryPrediction(match, floor, positions, gains)
