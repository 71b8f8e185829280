"""A network's loss on the anchor text."""

from functools import partial
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.network.cifg import Params, build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import PAD
from keyflock_models.text.vocabulary import Vocabulary

#: Number of rows whose logits are in memory together.
_BLOCK_ROWS: Final = 8


def anchor_loss(config: ModelConfig, vocabulary: Vocabulary, weights: F32, rows: I32) -> float:
    """Return the mean loss over the displayable targets of an anchor text, nats a word.

    Args:
        config: The model's size.
        vocabulary: Its words.
        weights: Shape (P,), as `ParamLayout.for_config(config)` lays them out.
        rows: The anchor text, shape (N, L + 1).
    Edge cases:
        weights that have diverged -> a large number, infinity or not a number
    """
    blocks = -(-len(rows) // _BLOCK_ROWS)
    filled = np.full((blocks * _BLOCK_ROWS, rows.shape[1]), PAD, np.int32)
    filled[: len(rows)] = rows
    params = {
        name: jnp.asarray(tensor)
        for name, tensor in ParamLayout.for_config(config).unflatten(weights).items()
    }
    is_displayable = jnp.asarray(vocabulary.is_displayable)
    shape = (blocks, _BLOCK_ROWS, rows.shape[1])
    return float(_mean_loss(config, params, filled.reshape(shape), is_displayable))


@partial(jax.jit, static_argnames=("config",))
def _mean_loss(
    config: ModelConfig, params: Params, blocks: jax.Array, is_displayable: jax.Array
) -> jax.Array:
    model = build_network(config, params)

    def summed(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        targets = block[:, 1:]
        logits = model(block[:, :-1])
        own = jnp.take_along_axis(logits, targets[..., None], axis=2)[..., 0]
        nll = jax.nn.logsumexp(logits, axis=2) - own
        counts = is_displayable[targets]
        return jnp.where(counts, nll, 0.0).sum(), counts.sum()

    losses, counts = jax.lax.map(summed, blocks)
    return jnp.divide(losses.sum(), counts.sum())
