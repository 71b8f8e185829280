"""A scorer source is a value that is sent to a worker and becomes a scorer there."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.scoring import Scorer
from keyflock_models.evaluation.trigram import KneserNeyTrigram
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary


class ScorerSource(Protocol):
    """A picklable value that makes a scorer in a worker."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary that it scores."""
        ...

    def scorer(self, models: ModelFolder) -> Scorer:
        """Make the scorer; called once a job."""
        ...


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published model: the very bytes that phones download, so the figures hold for what phones have."""

    digest: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary

    def scorer(self, models: ModelFolder) -> Scorer:
        """Return the network with the published weights."""
        weights = models.weights(self.digest, ParamLayout.for_config(self.config))
        return NeuralScorer(self.config, weights, self.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Unigram:
    """The baseline that guesses the same frequent words everywhere."""

    vocabulary: Vocabulary
    #: The text that it counts, shape (N, L + 1), int32: say beside every figure which text that was.
    text: npt.NDArray[np.int32]

    def scorer(self, models: ModelFolder) -> Scorer:
        """Fit the unigram model."""
        del models
        return UnigramModel.fit(self.text, self.vocabulary)


@dataclass(frozen=True, slots=True, eq=False)
class Trigram:
    """The Kneser-Ney baseline, which has all of its text in one place, as no federation does."""

    vocabulary: Vocabulary
    #: The text that it counts, shape (N, L + 1), int32: say beside every figure which text that was.
    text: npt.NDArray[np.int32]

    def scorer(self, models: ModelFolder) -> Scorer:
        """Fit the trigram model."""
        del models
        return KneserNeyTrigram.fit(self.text, self.vocabulary)
