"""This job measures what compression costs a round: the error of the cohort's mean delta, and its bits.

It runs beside the rounds, on phones of the fleet and the model that they last trained from, because no raw
delta ever leaves a phone: a worker trains a cohort, sums both means, and compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_client_sim.training.train_job import local_training
from keyflock_compression import decode, encode, nmse, parse_spec
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.training.local_training import local_train
from keyflock_server.protocol.plans import TrainingPlan


@dataclass(frozen=True, slots=True)
class CohortQuantizationError:
    """The error that compression makes on one cohort."""

    #: The squared error of the mean of the decoded deltas, as a share of the raw mean's energy.
    nmse: float
    #: The mean size of the containers.
    bits_per_parameter: float
    phones: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortQuantizationErrorJob:
    """Trains a cohort and compares its mean delta with and without compression; see ``training.job``."""

    #: The model to start from; publish its bytes first.
    model: ModelDigest
    config: ModelConfig
    #: Each phone's sequences, shape (N, L + 1), int32.
    cohort: tuple[npt.NDArray[np.int32], ...]
    plan: TrainingPlan
    #: The codec in its wire form.
    codec: Mapping[str, object]
    seed: int

    def run(self, models: ModelFolder) -> CohortQuantizationError:
        """Measure the error; raise like ``TrainJob``."""
        layout = ParamLayout.for_config(self.config)
        spec = parse_spec(self.codec)
        weights = models.weights(self.model, layout)
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
        return CohortQuantizationError(nmse(raw, decoded), bits, len(self.cohort))
