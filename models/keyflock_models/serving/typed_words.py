"""What a blend gives to the words that users have typed: many users' few hundred words in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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

    def least_of_best(self, count: int) -> F32:
        """Each voice's ``count``-th largest probability; 0 where it has fewer words. Shape (voices,)."""
        least = np.zeros(len(self.bounds) - 1, np.float32)
        for at, (begin, end) in enumerate(pairwise(self.bounds.tolist())):
            if end - begin >= count:
                least[at] = max(np.partition(self.probability[begin:end], -count)[-count], 0.0)
        return least


def typed_words(voices: Sequence[Voice], network: F32) -> TypedWords:
    """The blend at all words that were typed.

    Args:
        voices: At least one.
        network: The network's probabilities of the batch, shape (B, V).
    """
    size = network.shape[1]
    histories = [one.profile.history for one in voices]
    lengths = [len(one.ids) for one in histories]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    voice = np.repeat(np.arange(len(voices), dtype=np.int32), lengths)
    ids = np.concatenate([one.ids for one in histories])
    is_public = ids < size
    neural = network.ravel()[
        np.repeat(np.array([one.row * size for one in voices]), lengths) + np.where(is_public, ids, 0)
    ]
    # The network knows nothing of the users' own words.
    neural *= is_public
    probability = _spread([one.network for one in voices], lengths) * neural
    by_cache = _spread([one.mixture[CACHE] for one in voices], lengths)
    probability += by_cache * np.concatenate([one.cache for one in histories])
    at = np.concatenate([start + one.recall.places for start, one in zip(bounds, voices, strict=False)])
    by_ngram = np.array([one.mixture[NGRAM] for one in voices], np.float32)
    np.add.at(probability, at, by_ngram[voice[at]] * np.concatenate([one.recall.gains for one in voices]))
    probability[~np.concatenate([one.profile.is_shown for one in voices])] = -1.0
    return TypedWords(voice, ids, probability, bounds)


def _spread(values: list[float], lengths: list[int]) -> F32:
    """Each voice's value at all of its words."""
    return np.repeat(np.array(values, np.float32), lengths)
