"""What a blend gives to the words that users have typed: many users' few hundred words in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, F64, I32, I64
from keyflock_models.personal.blend import CACHE, HEAD, NGRAM, TRUNK
from keyflock_models.personal.history import HistoryRecall
from keyflock_models.serving.profile import ServingProfile

#: Times the words wanted: so many of one voice are sorted rather than cut first.
_FEW: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """One row of a batch in which a user's profile speaks."""

    row: int
    profile: ServingProfile
    recall: HistoryRecall
    #: The mixture at this place, shape (experts,).
    mixture: F64
    #: Of the strip, that the blend fills; `strip.SLOTS`: all of them.
    places: int

    @property
    def network(self) -> float:
        """What the network's probabilities are worth, those of the n-gram's floor with them."""
        counted = self.mixture[NGRAM] * self.recall.floor
        return float(self.mixture[TRUNK] + self.mixture[HEAD] + counted)


@dataclass(frozen=True, slots=True, eq=False)
class TypedWords:
    """Every word that every voice's user has typed, voice by voice. Shape (N,) each."""

    #: Index of the voice.
    voice: I32
    #: Extended ids.
    ids: I32
    #: In the blend; -1 for a word that may not be shown.
    probability: F32
    #: Where each voice's words begin, and where the last one's end. Shape (voices + 1,).
    bounds: I64

    def best(self, count: int, least: F32, kept: I32) -> I64:
        """Where the words are that can be among the first, in no order.

        Args:
            count: Words wanted.
            least: Each voice's least probability that counts, shape (voices,).
            kept: Ids that are wanted whatever the blend says of them, shape (voices, K).
        """
        found = np.flatnonzero(self.probability >= least[self.voice])
        counts = np.bincount(self.voice[found], minlength=len(least))
        if counts.max(initial=0) <= _FEW * count:
            return found
        # Where the network knows nothing, nearly all that was typed is above its best: cut each voice's.
        parts = []
        for at, (begin, end) in enumerate(pairwise(self.bounds.tolist())):
            own = self.probability[begin:end]
            if end - begin > count:
                top = np.argpartition(own, -count)[-count:]
                is_kept = np.isin(self.ids[begin:end], kept[at])
                parts.append(begin + np.union1d(top, np.flatnonzero(is_kept)))
            else:
                parts.append(np.arange(begin, end))
        return np.concatenate(parts)


def typed_words(voices: Sequence[Voice], network: F32) -> TypedWords:
    """The blend at all words that were typed.

    Args:
        voices: At least one.
        network: The network's probabilities of the batch, shape (B, V).
    """
    size = network.shape[1]
    profiles = [one.profile for one in voices]
    lengths = np.array([len(one.history.ids) for one in profiles])
    begins = np.cumsum(lengths) - lengths
    voice = np.repeat(np.arange(len(voices), dtype=np.int32), lengths)
    rows = np.array([one.row * size for one in voices])
    probability = network.ravel()[rows[voice] + _joined([one.public_ids for one in profiles])]
    # The network knows nothing of the users' own words.
    probability[_shifted([one.own_places for one in profiles], begins)] = 0.0
    probability *= _of_each([one.network for one in voices])[voice]
    by_cache = _of_each([one.mixture[CACHE] for one in voices])[voice]
    by_cache *= _joined([one.history.cache for one in profiles])
    probability += by_cache
    by_ngram = [one.recall.gains * np.float32(one.mixture[NGRAM]) for one in voices]
    np.add.at(probability, _shifted([one.recall.places for one in voices], begins), _joined(by_ngram))
    probability[_shifted([one.hidden_places for one in profiles], begins)] = -1.0
    bounds = np.append(begins, len(voice))
    return TypedWords(voice, _joined([one.history.ids for one in profiles]), probability, bounds)


def _of_each(values: list[float]) -> F32:
    return np.array(values, np.float32)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def _shifted(places: list[I32], begins: I64) -> I64:
    """Each voice's places among the words of all voices."""
    lengths = np.array([len(one) for one in places])
    return np.asarray(_joined(places) + np.repeat(begins, lengths), np.int64)
