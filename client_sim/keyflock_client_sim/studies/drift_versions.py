"""The versions of a trunk, one after the other: by federated rounds, or by random steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keyflock_client_sim.personalising.reader import TrunkReader
from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_compression import encode_weights
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.personal.head_mapping import HeadMap, fit_head_map
from keyflock_models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class TrunkVersions:
    """Every version on the workers' shelf, oldest first."""

    digests: tuple[ModelDigest, ...]
    config: ModelConfig
    vocabulary: Vocabulary

    def scorer(self, shelf: ModelShelf, version: int) -> NeuralScorer:
        """A version as phones have it."""
        weights = shelf.weights(self.digests[version], ParamLayout.of(self.config))
        return NeuralScorer(self.config, weights, self.vocabulary)

    def reader(self, shelf: ModelShelf, version: int) -> TrunkReader:
        """The same, as a user's phone reads with it."""
        return TrunkReader(self.scorer(shelf, version))


@dataclass(frozen=True, slots=True, eq=False)
class FitMaps:
    """What is shipped with some versions, as a job for a worker: the map from the one before each."""

    versions: TrunkVersions
    #: Numbers of the versions, each above 0.
    wanted: tuple[int, ...]

    def run(self, shelf: ModelShelf) -> list[dict[str, object]]:
        """The maps as plain data, rounded as they are shipped."""
        return [
            fit_head_map(
                self.versions.scorer(shelf, number - 1), self.versions.scorer(shelf, number)
            ).to_state()
            for number in self.wanted
        ]


@dataclass(frozen=True, slots=True, eq=False)
class MeasureSteps:
    """How far each version is from version 0, as a job for a worker."""

    versions: TrunkVersions

    def run(self, shelf: ModelShelf) -> list[float]:
        """Distance of the weights, relative to the norm of version 0's."""
        start = self.versions.scorer(shelf, 0).weights
        norm = float(np.linalg.norm(start))
        return [
            float(np.linalg.norm(self.versions.scorer(shelf, number).weights - start)) / norm
            for number in range(len(self.versions.digests))
        ]


def maps_of(states: Sequence[dict[str, object]], width: int) -> list[HeadMap]:
    """Back from `FitMaps`, as a phone reads them."""
    return [HeadMap.from_state(state, width=width) for state in states]


def random_steps(start: Checkpoint, steps: int, *, step_ratio: float, seed: int) -> list[bytes]:
    """Bodies of version 0 and as many versions after it, each a random step away from the one before.

    Args:
        start: Version 0.
        steps: Versions after it.
        step_ratio: Norm of a step of each tensor, relative to the norm of version 0's.
        seed: Of the steps.
    """
    layout = ParamLayout.of(start.config)
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
