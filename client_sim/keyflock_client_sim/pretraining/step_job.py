"""A job runs some steps of pre-training, so that progress is shown and a state can be saved between jobs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.model_folder import ModelFolder
from keyflock_models.training.pretraining import PretrainingConfig, PretrainingState, pretrain_step


@dataclass(frozen=True, slots=True)
class PretrainStepsResult:
    """The result of some steps."""

    state: bytes
    #: The mean loss of the steps, nats a target.
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSteps:
    """A job of some steps of Adam from a state."""

    #: The bytes of ``PretrainingState.to_bytes``.
    state: bytes
    #: The steps' batches, shape (S, B, L + 1), int32. S >= 1.
    batches: npt.NDArray[np.int32]
    plan: PretrainingConfig
    #: The share of the whole training that is done at the first step, and after the last.
    begin_ratio: float
    end_ratio: float
    seed: int

    def run(self, models: ModelFolder) -> PretrainStepsResult:
        """Take the steps."""
        del models
        state = PretrainingState.from_bytes(self.state)
        losses = []
        ratios = np.linspace(self.begin_ratio, self.end_ratio, len(self.batches), endpoint=False)
        for batch, ratio in zip(self.batches, ratios, strict=True):
            state, loss = pretrain_step(state, batch, self.plan, progress_ratio=float(ratio), seed=self.seed)
            losses.append(loss)
        return PretrainStepsResult(state.to_bytes(), float(np.mean(losses)))
