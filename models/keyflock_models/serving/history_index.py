"""A user's history as sorted arrays: a hundredth of the memory of the one that learns, and as fast to ask."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from keyflock_models.arrays import F32, I32, I64
from keyflock_models.personal.history import HistoryRecall, UserHistory, match_of

#: Ids are below this; a context of two ids is one number.
_BASE = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class _Contexts:
    """One order's contexts, ascending, and their followers one after the other."""

    #: Shape (C,); ``starts`` has one more.
    keys: I64
    starts: I32
    #: Worth of all followers. Shape (C,).
    seen: F32
    #: Shape (K,).
    places: I32
    worths: F32

    @classmethod
    def of(cls, rows: I32, worths: np.ndarray) -> Self:
        """From rows of a context's ids and a follower's place, shape (K, order)."""
        keys = rows[:, 0].astype(np.int64)
        if rows.shape[1] == 3:
            keys = keys * _BASE + rows[:, 1]
        order = np.argsort(keys, kind="stable")
        distinct, starts = np.unique(keys[order], return_index=True)
        sorted_worths = worths.astype(np.float32)[order]
        # Nothing to add up where there is no context at all.
        seen = np.add.reduceat(sorted_worths, starts) if len(starts) else sorted_worths
        bounds = np.append(starts, len(keys)).astype(np.int32)
        return cls(distinct, bounds, seen, rows[order, -1].astype(np.int32), sorted_worths)

    def followers(self, key: int) -> tuple[I32, F32, float] | None:
        """Places, worths, and the sum of the worths; None for a context that was never typed."""
        at = int(self.keys.searchsorted(key))
        if at == len(self.keys) or int(self.keys[at]) != key:
            return None
        span = slice(self.starts[at], self.starts[at + 1])
        return self.places[span], self.worths[span], float(self.seen[at])


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

    def recall(self, before: int, last: int) -> HistoryRecall | None:
        """What is known of the word after these two; None: nothing was typed yet."""
        if not len(self.ids):
            return None
        floor, match = 1.0, 0
        places: list[I32] = []
        gains: list[F32] = []
        for order, (table, key) in enumerate(
            ((self._bigrams, last), (self._trigrams, before * _BASE + last))
        ):
            found = table.followers(key)
            if found is not None:
                at, worths, seen = found
                share = len(at) / (seen + len(at))
                floor *= share
                gains = [gain * np.float32(share) for gain in gains]
                places.append(at)
                gains.append(worths / np.float32(seen + len(at)))
                match = match_of(order, seen)
        if len(places) == 1:
            return HistoryRecall(match, floor, places[0], gains[0])
        if not places:
            return HistoryRecall(match, floor, np.zeros(0, np.int32), np.zeros(0, np.float32))
        return HistoryRecall(match, floor, np.concatenate(places), np.concatenate(gains))
