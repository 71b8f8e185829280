"""The versions of a trunk come from federated rounds, or from random steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keyflock_client_sim.personalising.reader import TrunkReader
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_compression import encode_weights
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head_mapping import HeadMap, fit_head_map
from keyflock_models.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class TrunkVersions:
    """Every version as published to the workers, oldest first."""

    digests: tuple[ModelDigest, ...]
    config: ModelConfig
    vocabulary: Vocabulary

    def scorer(self, models: ModelFolder, version: int) -> NeuralScorer:
        """Return a scorer of a version as phones have it."""
        weights = models.weights(self.digests[version], ParamLayout.for_config(self.config))
        return NeuralScorer(self.config, weights, self.vocabulary)

    def reader(self, models: ModelFolder, version: int) -> TrunkReader:
        """Return a reader of a version, as on a user's phone."""
        return TrunkReader(self.scorer(models, version))


@dataclass(frozen=True, slots=True, eq=False)
class FitMaps:
    """A job that fits the maps that are shipped with some versions, each from the version before."""

    versions: TrunkVersions
    #: The numbers of the versions, each above 0.
    wanted: tuple[int, ...]

    def run(self, models: ModelFolder) -> list[dict[str, object]]:
        """Return the maps as plain data, rounded as they are shipped."""
        return [
            fit_head_map(
                self.versions.scorer(models, number - 1), self.versions.scorer(models, number)
            ).to_state()
            for number in self.wanted
        ]


@dataclass(frozen=True, slots=True, eq=False)
class MeasureSteps:
    """A job that measures how far each version is from version 0."""

    versions: TrunkVersions

    def run(self, models: ModelFolder) -> list[float]:
        """Return the distance of the weights, relative to the norm of version 0's."""
        start = self.versions.scorer(models, 0).weights
        norm = float(np.linalg.norm(start))
        return [
            float(np.linalg.norm(self.versions.scorer(models, number).weights - start)) / norm
            for number in range(len(self.versions.digests))
        ]


def maps_of(states: Sequence[dict[str, object]], width: int) -> list[HeadMap]:
    """Return the maps of `FitMaps` as a phone reads them."""
    return [HeadMap.from_state(state, width=width) for state in states]


def random_steps(start: Checkpoint, steps: int, *, step_ratio: float, seed: int) -> list[bytes]:
    """Return bodies of version 0 and of so many versions after it, each a random step from the one before.

    Args:
        start: Version 0.
        steps: The number of versions after it.
        step_ratio: The norm of a step of each tensor, relative to the norm of version 0's.
        seed: The seed of the steps.
    """
    layout = ParamLayout.for_config(start.config)
    rng = np.random.default_rng(seed)
    tensors = dict(layout.unflatten(start.weights))
    scales = {
        name: step_ratio * float(np.linalg.norm(tensor)) / tensor.size**0.5
        for name, tensor in tensors.items()
    }
    bodies = [encode_weights(start.weights, layout, precision="float32")]
    for _ in range(steps):
        tensors = {
            name: tensor + (scales[name] * rng.normal(size=tensor.shape)).astype(np.float32)
            for name, tensor in tensors.items()
        }
        bodies.append(encode_weights(layout.flatten(tensors), layout, precision="float32"))
    return bodies
