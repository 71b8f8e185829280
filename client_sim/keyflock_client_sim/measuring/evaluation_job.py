"""Some users' share of an evaluation, as a job for a worker."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_models.config import ModelConfig
from keyflock_models.evaluation import Evaluation, evaluate
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateVersion:
    """Measures a published model on some users."""

    model: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    #: By user, rows of token ids, shape (N, L + 1), int32, one L for all.
    sequences: Mapping[str, npt.NDArray[np.int32]]

    def run(self, shelf: ModelShelf) -> Evaluation:
        """Scores every word of these users."""
        weights = shelf.weights(self.model, ParamLayout.of(self.config))
        return evaluate(NeuralScorer(self.config, weights, self.vocabulary), self.sequences)
