"""This trainer trains for real, in the worker processes of ``keyflock_client_sim.training``."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_client_sim.drivers.worker_models import PublishedModels, worker_result
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.residuals import ResidualFile
from keyflock_client_sim.training.train_job import TrainJob
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol.messages import FailureCause


class PoolTrainer:
    """Runs each phone's training in a worker pool.

    Args:
        pool: A started pool.
        config: The size of the model.
        sequences: Each phone's text as tokens, shape (N, L + 1), int32.
        clock: Seconds by the fleet's clock: it decides how long residuals of error feedback count.
    """

    def __init__(
        self,
        pool: WorkerPool,
        config: ModelConfig,
        sequences: Mapping[str, npt.NDArray[np.int32]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._config = config
        self._layout_digest = ParamLayout.for_config(config).digest
        self._sequences = sequences
        self._clock = clock
        #: The folder of residuals, for codecs with error feedback; made when one is first needed.
        self._residuals: tempfile.TemporaryDirectory[str] | None = None
        self._published = PublishedModels(pool.publish)

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model; see ``Trainer``."""
        self._published.store(digest, body)

    async def train(self, phone: str, work: Train) -> Trained:
        """Train for a phone; see ``Trainer``."""
        if work.layout != self._layout_digest:
            raise TrainingError(FailureCause.TRAINING_FAILED, "the model has another layout than was said")
        sequences = self._sequences[phone]
        if len(sequences) == 0:
            raise TrainingError(FailureCause.NO_EXAMPLES)
        job = TrainJob(
            model=self._published.digest_of(work.model_digest),
            config=self._config,
            sequences=sequences,
            plan=work.plan,
            codec=work.codec,
            seed=work.seed,
            residual=self._residual_of(phone) if "feedback_s" in work.codec else None,
            now_s=self._clock(),
        )
        done = await worker_result(self._pool.train(job))
        return Trained(
            delta=done.container,
            examples=done.examples,
            loss_before=done.loss_before,
            loss_after=done.loss_after,
            train_s=done.train_s,
        )

    def _residual_of(self, phone: str) -> ResidualFile:
        if self._residuals is None:
            self._residuals = tempfile.TemporaryDirectory(
                prefix="keyflock-residuals-", ignore_cleanup_errors=True
            )
        return ResidualFile.of(Path(self._residuals.name), phone)
