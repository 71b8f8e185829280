"""What a blend gives to the words that users have typed: many users' few hundred words in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keyflock_models.arrays import F32, F64, I32, I64
from keyflock_models.personal.blend import CACHE, HEAD, NGRAM, TRUNK
from keyflock_models.personal.history import HistoryRecall
from keyflock_models.serving.profile import ServingProfile


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
    return TypedWords(voice, _joined([one.history.ids for one in profiles]), probability)


def _of_each(values: list[float]) -> F32:
    return np.array(values, np.float32)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def _shifted(places: list[I32], begins: I64) -> I64:
    """Each voice's places among the words of all voices."""
    lengths = np.array([len(one) for one in places])
    return np.asarray(_joined(places) + np.repeat(begins, lengths), np.int64)
