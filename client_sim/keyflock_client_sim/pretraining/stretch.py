"""The part of pre-training that one worker does between two averagings."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
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


def averaged(states: Sequence[PretrainingState]) -> PretrainingState:
    """The mean of states that took the same number of steps from one beginning: parameters and moments.

    Each worker runs ahead on its own batches for some seconds, then they meet. Against averaging the gradient
    of every step this moves a thousandth of the bytes, and no worker ever waits within a step.

    Source:
        McDonald et al. 2010 (iterative parameter mixing); Stich 2019, arXiv:1805.09767 (local SGD).
    """

    def mean(*tensors: jax.Array) -> jax.Array:
        return jnp.mean(jnp.stack(tensors), axis=0)

    first = states[0]
    return PretrainingState(
        first.config,
        jax.tree.map(mean, *(state.params for state in states)),
        jax.tree.map(mean, *(state.first_moment for state in states)),
        jax.tree.map(mean, *(state.second_moment for state in states)),
        first.step,
    )
