"""Local training: a few steps of SGD on a phone's own sequences, from the round's weights.

One compiled program serves every phone whose batches have the same shapes, whatever their number: the loop
over batches runs as often as there are batches.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.network.cifg import Params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.training.batches import Batches, make_batches, padded_order
from keyflock_models.training.candidates import candidate_words
from keyflock_models.training.loss import mean_nll

#: The number of batches that a compiled program has room for is a multiple of this.
_CAPACITY_STEP = 16
#: Parameters with a row for each word.
_WORD_INDEXED = frozenset({"embedding", "output_bias"})


@dataclass(frozen=True, slots=True)
class LocalTrainingConfig:
    """The settings of local training that change the mathematics, apart from the sequences' length."""

    #: Learning rate of plain SGD.
    learning_rate: float
    epochs: int = 1
    #: Number of sequences per step.
    batch_size: int = 16
    #: Maximum number of sequences that are used, chosen by the seed.
    max_examples: int = 256
    #: Minimum number of sampled words beside the phone's own in the softmax; 0 is the full softmax.
    candidates: int = 0
    #: Upper bound on the L2 norm of each step's gradient; 0 is no bound.
    gradient_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.gradient_clip_norm >= 0):
            msg = f"learning_rate {self.learning_rate} must be above 0, gradient_clip_norm not below"
            raise ValueError(msg)
        if min(self.epochs, self.batch_size, self.max_examples) < 1 or self.candidates < 0:
            msg = "epochs, batch_size and max_examples are at least 1, candidates at least 0"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class LocalResult:
    """The result of local training."""

    #: Parameters before minus after, shape (P,), float32.
    delta: F32
    #: Number of sequences trained on.
    examples: int
    #: Nats per target in the first batch, before the first step; an estimate under a candidate softmax.
    loss_before: float
    #: Nats per target in the same batch, after the last step.
    loss_after: float


def local_train(
    config: ModelConfig, weights: F32, sequences: I32, training: LocalTrainingConfig, *, seed: int
) -> LocalResult:
    """Train on a phone's sequences and say what changed.

    Args:
        config: The model's size.
        weights: The round's parameters, shape (P,), as `ParamLayout.for_config(config)` lays them out.
        sequences: Rows of `encode_messages`, shape (N, L + 1).
        training: The settings.
        seed: Decides which sequences (if there are too many), their order and the candidate sample. >= 0.
    Guarantees:
        The result depends on the arguments alone; `weights` is not written to. The last batch of an epoch may
        be small: its padding has no influence. With a candidate softmax the delta of a word that was no
        candidate is exactly 0.
    Edge cases:
        no sequences -> a delta of zeros, 0 examples, losses of 0.0; training that diverges -> a delta that
        is not finite, which is the caller's to refuse
    Raises:
        ValueError: an array has the wrong shape, or an id is not in the vocabulary.
    """
    layout = ParamLayout.for_config(config)
    delta = np.zeros(layout.size, np.float32)
    before, change = layout.unflatten(weights), layout.unflatten(delta)
    if sequences.ndim != 2 or sequences.shape[1] < 2:
        msg = f"sequences of shape {sequences.shape}: rows of at least two ids are needed"
        raise ValueError(msg)
    if len(sequences) == 0:
        return LocalResult(delta, 0, 0.0, 0.0)
    if sequences.min() < 0 or sequences.max() >= config.vocabulary_size:
        msg = f"an id is not in a vocabulary of {config.vocabulary_size} words"
        raise ValueError(msg)

    rng = np.random.default_rng(seed)
    used = sequences[rng.permutation(len(sequences))[: training.max_examples]]
    # The special tokens are always candidates, so they keep their ids, PAD among them.
    own = np.concatenate([np.arange(len(SPECIAL_TOKENS), dtype=np.int32), used.reshape(-1)])
    words = candidate_words(own, config.vocabulary_size, training.candidates, rng)
    batches, steps = _batches(np.searchsorted(words.ids, used).astype(np.int32), training, rng)
    begin = {name: tensor[words.ids] if name in _WORD_INDEXED else tensor for name, tensor in before.items()}
    end, loss_before, loss_after = _descend(
        config,
        {name: jnp.asarray(tensor) for name, tensor in begin.items()},
        batches,
        steps,
        jnp.asarray(words.log_inclusion) if len(words.ids) < config.vocabulary_size else None,
        training.learning_rate,
        training.gradient_clip_norm or None,
    )
    for name, tensor in end.items():
        rows: I32 | slice = words.ids if name in _WORD_INDEXED else slice(None)
        change[name][rows] = begin[name] - np.asarray(tensor)
    return LocalResult(delta, len(used), float(loss_before), float(loss_after))


def _batches(rows: I32, training: LocalTrainingConfig, rng: np.random.Generator) -> tuple[Batches, int]:
    """Return all batches in the order of training, empty ones at the end, and how many are not empty."""
    size = training.batch_size
    order = np.concatenate([padded_order(rng.permutation(len(rows)), size) for _ in range(training.epochs)])
    return make_batches(rows, padded_order(order, size * _CAPACITY_STEP), size), len(order) // size


@partial(jax.jit, static_argnames=("config",))
def _descend(
    config: ModelConfig,
    params: Params,
    batches: Batches,
    steps: int,
    log_inclusion: jax.Array | None,
    learning_rate: float,
    clip_norm: float | None,
) -> tuple[Params, jax.Array, jax.Array]:
    """Return the parameters after `steps` steps of SGD, and the first batch's loss before and after them."""

    def loss(params: Params, index: jax.Array | int) -> jax.Array:
        return mean_nll(config, params, Batches(*(field[index] for field in batches)), log_inclusion)

    def step(index: jax.Array, carry: tuple[Params, jax.Array]) -> tuple[Params, jax.Array]:
        params, first = carry
        value, gradient = jax.value_and_grad(loss)(params, index)
        rate = jnp.float32(learning_rate)
        if clip_norm is not None:
            norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
            rate = rate * jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        return params, jnp.where(index == 0, value, first)

    params, loss_before = jax.lax.fori_loop(0, steps, step, (params, jnp.float32(0)))
    return params, loss_before, loss(params, 0)
