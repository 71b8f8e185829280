"""What compression costs a round: the error of the cohort's mean delta, and the bits that bought it.

Measured beside the rounds, on phones of the fleet and the model that they last trained from, because no raw
delta ever leaves a phone: a worker trains a cohort, keeps both means as running sums, and compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_client_sim.training.train_job import local_training
from keyflock_compression import CodecSpec, decode, encode, nmse
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.local_training import local_train
from keyflock_server.protocol.messages import TrainingPlan


@dataclass(frozen=True, slots=True)
class CohortError:
    """Of one cohort."""

    #: Squared error of the mean of the decoded deltas, as a share of the raw mean's energy.
    nmse: float
    #: Mean size of the containers.
    bits_per_parameter: float
    phones: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortErrorJob:
    """Trains a cohort and compares its mean delta with and without compression; see ``training.job``."""

    #: The model to start from; publish its bytes first.
    model: ModelDigest
    config: ModelConfig
    #: Each phone's sequences, shape (N, L + 1), int32.
    cohort: tuple[npt.NDArray[np.int32], ...]
    plan: TrainingPlan
    #: Wire form of the codec.
    codec: Mapping[str, object]
    seed: int

    def run(self, shelf: ModelShelf) -> CohortError:
        """Does it; raises like ``TrainJob``."""
        layout = ParamLayout.of(self.config)
        spec = CodecSpec.from_wire(self.codec)
        weights = shelf.weights(self.model, layout)
        raw, decoded = np.zeros(layout.size, np.float32), np.zeros(layout.size, np.float32)
        container_bytes = 0
        for number, sequences in enumerate(self.cohort):
            seed = self.seed + number
            trained = local_train(self.config, weights, sequences, local_training(self.plan), seed=seed)
            container = encode(trained.delta, layout, spec, seed=seed)
            container_bytes += len(container)
            raw += trained.examples * trained.delta
            decode(container, layout).add_to(decoded, float(trained.examples))
        bits = 8.0 * container_bytes / (len(self.cohort) * layout.size)
        return CohortError(nmse(raw, decoded), bits, len(self.cohort))
