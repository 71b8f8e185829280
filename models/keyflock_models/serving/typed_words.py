"""The blend's probabilities of the words that users have typed, for many users in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, F64, I32, I64
from keyflock_models.personal.blend import CACHE, HEAD, NGRAM, TRUNK
from keyflock_models.personal.history import SparseHistoryPrediction
from keyflock_models.serving.profile import ServingProfile

#: Up to this multiple of the wanted words, a row's words are sorted without a selection before.
_FEW: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class PersonalizedRow:
    """One row of a batch for which a user's profile is used."""

    row: int
    profile: ServingProfile
    prediction: SparseHistoryPrediction
    #: The experts' weights at this position. Shape (experts,).
    mixture: F64
    #: How many slots of the strip the blend fills; `strip.SLOTS`: all of them.
    blend_slots: int

    @property
    def network_share(self) -> float:
        """The weight of the network's probabilities, with what the n-gram leaves to the network."""
        counted = self.mixture[NGRAM] * self.prediction.floor
        return float(self.mixture[TRUNK] + self.mixture[HEAD] + counted)


@dataclass(frozen=True, slots=True, eq=False)
class TypedWords:
    """All words that the rows' users have typed, row by row. The arrays have shape (N,)."""

    #: Index of the personalized row that the word belongs to.
    owner: I32
    #: The words' extended ids.
    ids: I32
    #: Probability in the blend; -1 for a word that may not be shown.
    probability: F32
    #: Where each row's words begin, and where the last one's end. Shape (rows + 1,).
    bounds: I64

    def best(self, count: int, min_probability: F32, always_included: I32) -> I64:
        """Return the indices of the words that can be among the best of their row, in no order.

        Args:
            count: The number of words wanted per row.
            min_probability: Each row's minimum probability. Shape (rows,).
            always_included: Ids that are included whatever their probability. Shape (rows, K).
        """
        found = np.flatnonzero(self.probability >= min_probability[self.owner])
        counts = np.bincount(self.owner[found], minlength=len(min_probability))
        if counts.max(initial=0) <= _FEW * count:
            return found
        # Where the network is unsure, nearly all typed words are above its best: select each row's best.
        parts = []
        for at, (begin, end) in enumerate(pairwise(self.bounds.tolist())):
            own = self.probability[begin:end]
            if end - begin > count:
                top = np.argpartition(own, -count)[-count:]
                is_included = np.isin(self.ids[begin:end], always_included[at])
                parts.append(begin + np.union1d(top, np.flatnonzero(is_included)))
            else:
                parts.append(np.arange(begin, end))
        return np.concatenate(parts)


def typed_words(rows: Sequence[PersonalizedRow], network: F32) -> TypedWords:
    """Compute the blend's probabilities of all words that the rows' users have typed.

    Args:
        rows: The personalized rows, at least one.
        network: The network's probabilities for the batch. Shape (B, V).
    """
    size = network.shape[1]
    profiles = [one.profile for one in rows]
    lengths = np.array([len(one.history.ids) for one in profiles])
    begins = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
    offsets = np.array([one.row * size for one in rows])
    probability = network.ravel()[offsets[owner] + _joined([one.public_ids for one in profiles])]
    # The network knows nothing of the users' own words.
    probability[_shifted([one.own_positions for one in profiles], begins)] = 0.0
    probability *= _of_each([one.network_share for one in rows])[owner]
    by_cache = _of_each([one.mixture[CACHE] for one in rows])[owner]
    by_cache *= _joined([one.history.cache for one in profiles])
    probability += by_cache
    by_ngram = [one.prediction.gains * np.float32(one.mixture[NGRAM]) for one in rows]
    np.add.at(probability, _shifted([one.prediction.positions for one in rows], begins), _joined(by_ngram))
    probability[_shifted([one.hidden_positions for one in profiles], begins)] = -1.0
    bounds = np.append(begins, len(owner))
    return TypedWords(owner, _joined([one.history.ids for one in profiles]), probability, bounds)


def _of_each(values: list[float]) -> F32:
    return np.array(values, np.float32)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def _shifted(positions: list[I32], begins: I64) -> I64:
    """Shift each row's positions to those among the words of all rows."""
    lengths = np.array([len(one) for one in positions])
    return np.asarray(_joined(positions) + np.repeat(begins, lengths), np.int64)
