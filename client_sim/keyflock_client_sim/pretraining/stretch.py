"""Some steps of pre-training at a time, so that progress is seen and a state can be saved between them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.training.shelf import ModelShelf
from keyflock_models.pretraining import PretrainingConfig, PretrainingState, pretrain_step


@dataclass(frozen=True, slots=True)
class Stretched:
    """What a stretch led to."""

    state: bytes
    #: Mean loss of its steps, nats a target.
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some steps of Adam from a state."""

    #: ``PretrainingState.to_bytes``.
    state: bytes
    #: The steps' batches, shape (S, B, L + 1), int32. S >= 1.
    batches: npt.NDArray[np.int32]
    plan: PretrainingConfig
    #: Share of the whole training that is behind at the first step, and after the last.
    begin_ratio: float
    end_ratio: float
    seed: int

    def run(self, shelf: ModelShelf) -> Stretched:
        """Takes the steps."""
        del shelf
        state = PretrainingState.from_bytes(self.state)
        losses = []
        ratios = np.linspace(self.begin_ratio, self.end_ratio, len(self.batches), endpoint=False)
        for batch, ratio in zip(self.batches, ratios, strict=True):
            state, loss = pretrain_step(state, batch, self.plan, progress_ratio=float(ratio), seed=self.seed)
            losses.append(loss)
        return Stretched(state.to_bytes(), float(np.mean(losses)))
