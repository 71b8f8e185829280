"""This job trains one simulated phone: model and sequences in, an encoded delta out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_client_sim.training.residuals import ResidualFile
from keyflock_compression import CodecSpec, decode, nmse, parse_spec
from keyflock_compression.feedback import encode_with_feedback
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import recut
from keyflock_models.training.local_training import LocalTrainingConfig, local_train
from keyflock_server.protocol.plans import TrainingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDelta:
    """The delta that a phone would upload, and its measurements."""

    #: The delta as a compression container.
    container: bytes
    #: The number of sequences trained on.
    examples: int
    #: Mean loss of the first batch, nats a token.
    loss_before: float
    #: Mean loss of the last batch, nats a token.
    loss_after: float
    #: Seconds of training on this machine's core, without encoding.
    train_s: float
    #: The codec's error on this delta, as a share of its energy; None where it was not measured.
    error_nmse: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """The training that an assignment asks of a phone, with the phone's sequences."""

    #: The model to start from; publish its bytes first.
    model: ModelDigest
    config: ModelConfig
    #: The phone's text as tokens, shape (N, L + 1), int32, padded with PAD; the plan says how it is cut.
    sequences: npt.NDArray[np.int32]
    plan: TrainingPlan
    #: The codec in its wire form, as the assignment carries it.
    codec: Mapping[str, object]
    #: The assignment's seed: order of the examples, and the codec's stochastic rounding.
    seed: int
    #: The file of what the phone's last report lost, and the phone's time; None: no error feedback.
    residual: ResidualFile | None = None
    now_s: float = 0.0
    #: Whether to decode the delta again and measure the codec's error; this costs some milliseconds.
    measures_error: bool = False

    def run(self, models: ModelFolder) -> TrainedDelta:
        """Train and encode.

        Raises:
            UnknownModelError: The model was not published.
            CodecError: The model's bytes or the codec's wire form are not what this layout and build expect.
            ValueError: There is no sequence to train on.
        """
        layout = ParamLayout.for_config(self.config)
        codec = parse_spec(self.codec)
        weights = models.weights(self.model, layout)
        began = time.perf_counter()
        sequences = recut(self.sequences, self.plan.sequence_length)
        trained = local_train(self.config, weights, sequences, local_training(self.plan), seed=self.seed)
        train_s = time.perf_counter() - began
        container = self._encoded(trained.delta, layout, codec)
        return TrainedDelta(
            container=container,
            examples=trained.examples,
            loss_before=trained.loss_before,
            loss_after=trained.loss_after,
            train_s=train_s,
            error_nmse=nmse(trained.delta, decode(container, layout).dense())
            if self.measures_error
            else None,
        )

    def _encoded(self, delta: npt.NDArray[np.float32], layout: ParamLayout, codec: CodecSpec) -> bytes:
        before = None if self.residual is None else self.residual.read()
        container, lost = encode_with_feedback(delta, layout, codec, before, seed=self.seed, now_s=self.now_s)
        if self.residual is not None and lost is not None:
            self.residual.write(lost)
        return container


def local_training(plan: TrainingPlan) -> LocalTrainingConfig:
    """Return the wire plan as the model's own configuration of local training."""
    return LocalTrainingConfig(
        learning_rate=plan.learning_rate,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        max_examples=plan.max_examples,
        candidates=plan.candidates,
        gradient_clip_norm=plan.gradient_clip_norm,
    )
