"""Pre-training: central training with Adam, which makes version 0 and a baseline for federated training.

It is a pure step over an explicit state. The driver owns the clock and the files: it takes steps while it has
time, saves `to_bytes()`, and continues from there to the same bits:

    state = begin_pretraining(config, vocabulary, seed=0)
    feed = Minibatches(pack(sequences), batch_size=plan.batch_size, seed=0)
    while (progress := elapsed_s / budget_s) < 1:
        state, loss = pretrain_step(state, feed.batch(state.step), plan, progress_ratio=progress)
"""

import json
import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keyflock_models.arrays import F32, I32
from keyflock_models.network.cifg import Params, init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_models.training.batches import Batches, make_batches
from keyflock_models.training.candidates import candidate_words
from keyflock_models.training.loss import mean_nll

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.99, 1e-8


class PretrainingError(ValueError):
    """Bytes are no state of pre-training; the message says why."""


@dataclass(frozen=True, slots=True)
class PretrainingConfig:
    """The settings of pre-training."""

    #: Maximum learning rate of Adam.
    learning_rate: float = 1e-2
    #: Number of sequences per step.
    batch_size: int = 32
    #: Minimum number of sampled words beside the batch's own in the softmax; 0 is the full softmax.
    candidates: int = 500
    #: Share of the training in which the learning rate rises to its maximum.
    warm_up_ratio: float = 0.05
    #: Upper bound on the L2 norm of each step's gradient.
    gradient_clip_norm: float = 1.0

    def rate_at(self, progress_ratio: float) -> float:
        """Return the learning rate after this share of the training.

        It rises linearly, then falls along half a cosine to a fiftieth of the maximum.
        """
        if progress_ratio < self.warm_up_ratio:
            return self.learning_rate * max(progress_ratio / self.warm_up_ratio, 0.02)
        fallen = (min(progress_ratio, 1.0) - self.warm_up_ratio) / (1 - self.warm_up_ratio)
        return self.learning_rate * (0.02 + 0.49 * (1 + math.cos(math.pi * fallen)))


@dataclass(frozen=True, slots=True, eq=False)
class PretrainingState:
    """The state that the next step depends on, apart from its batch."""

    config: ModelConfig
    params: Params
    #: Adam's running means of the gradient and of its square.
    first_moment: Params
    second_moment: Params
    #: Number of steps taken.
    step: int

    @property
    def weights(self) -> F32:
        """The parameters as a flat vector, for a checkpoint or a scorer."""
        return ParamLayout.for_config(self.config).flatten(self.params)

    def to_bytes(self) -> bytes:
        """Return the state as a safetensors document."""
        layout = ParamLayout.for_config(self.config)
        vectors = {
            "params": layout.flatten(self.params),
            "first_moment": layout.flatten(self.first_moment),
            "second_moment": layout.flatten(self.second_moment),
        }
        about = {"config": self.config.to_dict(), "step": self.step}
        return bytes(save({**vectors, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)}))

    @classmethod
    def from_bytes(cls, document: bytes) -> "PretrainingState":
        """Restore what `to_bytes` returned, to the same bits.

        Raises:
            PretrainingError: the bytes are no such state.
        """
        try:
            tensors = load(document)
            about = json.loads(tensors["about"].tobytes())
            config, step = ModelConfig.from_dict(about["config"]), int(about["step"])
            unflatten = ParamLayout.for_config(config).unflatten
            params, first, second = (
                {name: jnp.asarray(tensor, jnp.float32) for name, tensor in unflatten(tensors[key]).items()}
                for key in ("params", "first_moment", "second_moment")
            )
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            msg = f"not a state of pre-training: {error!r}"
            raise PretrainingError(msg) from error
        return cls(config, params, first, second, step)


def begin_pretraining(config: ModelConfig, vocabulary: Vocabulary, *, seed: int) -> PretrainingState:
    """Return the state before the first step: fresh parameters with the public's word frequencies."""
    params = init_params(config, jax.random.key(seed), vocabulary.log_frequencies)
    zeros = {name: jnp.zeros_like(tensor) for name, tensor in params.items()}
    return PretrainingState(config, params, zeros, zeros, 0)


def pretrain_step(
    state: PretrainingState, sequences: I32, plan: PretrainingConfig, *, progress_ratio: float, seed: int = 0
) -> tuple[PretrainingState, float]:
    """Take one step of Adam on a batch.

    Args:
        state: The state before the step.
        sequences: Rows of `encode_messages`, packed or not, shape (B, L + 1).
        plan: The settings.
        progress_ratio: The share of the training that is done; it decides the learning rate.
        seed: Together with the step's number, it decides the candidate sample.
    Returns:
        The state after the step and the loss before it in nats per target.
    Source:
        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    own = np.concatenate([np.arange(len(SPECIAL_TOKENS), dtype=np.int32), sequences.reshape(-1)])
    rng = np.random.default_rng((seed, state.step))
    words = candidate_words(own, state.config.vocabulary_size, plan.candidates, rng)
    is_sampled = len(words.ids) < state.config.vocabulary_size
    rows = np.searchsorted(words.ids, sequences).astype(np.int32)
    batch = make_batches(rows, np.arange(len(rows)), len(rows))
    (params, first, second), loss = _adam_step(
        state.config,
        (state.params, state.first_moment, state.second_moment),
        Batches(*(array[0] for array in batch)),
        (jnp.asarray(words.ids), jnp.asarray(words.log_inclusion)) if is_sampled else None,
        plan.rate_at(progress_ratio),
        plan.gradient_clip_norm,
        state.step + 1,
    )
    return PretrainingState(state.config, params, first, second, state.step + 1), float(loss)


@partial(jax.jit, static_argnames=("config",))
def _adam_step(
    config: ModelConfig,
    trees: tuple[Params, Params, Params],
    batch: Batches,
    candidates: tuple[jax.Array, jax.Array] | None,
    learning_rate: float,
    clip_norm: float,
    step: int,
) -> tuple[tuple[Params, Params, Params], jax.Array]:
    def objective(params: Params) -> jax.Array:
        if candidates is None:
            return mean_nll(config, params, batch, None)
        ids, log_inclusion = candidates
        rows = {name: params[name][ids] for name in ("embedding", "output_bias")}
        return mean_nll(config, params | rows, batch, log_inclusion)

    params, first, second = trees
    loss, gradient = jax.value_and_grad(objective)(params)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
    first = jax.tree.map(lambda m, g: _BETA_1 * m + (1 - _BETA_1) * scale * g, first, gradient)
    second = jax.tree.map(lambda v, g: _BETA_2 * v + (1 - _BETA_2) * jnp.square(scale * g), second, gradient)
    rate = learning_rate * jnp.sqrt(1 - _BETA_2**step) / (1 - _BETA_1**step)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + _EPSILON), params, first, second)
    return (params, first, second), loss
