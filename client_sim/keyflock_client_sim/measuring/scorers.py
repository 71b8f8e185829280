"""What can be measured, as values that cross to a worker and become a scorer there."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.scoring import Scorer
from keyflock_models.trigram import KneserNeyTrigram
from keyflock_models.unigram import UnigramModel
from keyflock_models.vocabulary import Vocabulary


class ScorerSource(Protocol):
    """Something picklable that can be made into a scorer in a worker."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that it scores."""
        ...

    def scorer(self, shelf: ModelShelf) -> Scorer:
        """Makes the scorer; called once a job."""
        ...


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model on the shelf: the very bytes that phones download, so the figures hold for what phones have."""

    digest: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary

    def scorer(self, shelf: ModelShelf) -> Scorer:
        """The network with the published weights."""
        weights = shelf.weights(self.digest, ParamLayout.of(self.config))
        return NeuralScorer(self.config, weights, self.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Unigram:
    """The baseline that guesses the same frequent words everywhere."""

    vocabulary: Vocabulary
    #: The text that it counts, shape (N, L + 1), int32: say beside every figure which text that was.
    text: npt.NDArray[np.int32]

    def scorer(self, shelf: ModelShelf) -> Scorer:
        """Counts."""
        del shelf
        return UnigramModel.fit(self.text, self.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Trigram:
    """The Kneser-Ney baseline, which has all of its text in one place, as no federation does."""

    vocabulary: Vocabulary
    #: The text that it counts, shape (N, L + 1), int32: say beside every figure which text that was.
    text: npt.NDArray[np.int32]

    def scorer(self, shelf: ModelShelf) -> Scorer:
        """Counts."""
        del shelf
        return KneserNeyTrigram.fit(self.text, self.vocabulary)
