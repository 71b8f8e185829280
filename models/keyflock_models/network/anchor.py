"""The anchor text: public text that nobody trains on, as token ids, on which every new version is measured.

It is held out when version 0 is pre-trained, and each checkpoint passes it on to the next. A federation's own
text differs from it, so the loss on it is no measure of how good a version is; but weights that have diverged
lose all language, this one too.
"""

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

#: Maximum number of rows: some 1,200 words, whose loss takes a full-size network 0.1 s on two cores.
MAX_ANCHOR_ROWS: Final = 64
#: Maximum number of token ids per row: one more than the longest sequence that is trained on here.
MAX_ANCHOR_COLUMNS: Final = 33
#: Number of rows whose logits are in memory together.
_BLOCK_ROWS: Final = 8


def choose_anchor(rows: I32) -> I32 | None:
    """Return at most ``MAX_ANCHOR_ROWS`` of these rows, evenly spread over them.

    Args:
        rows: Rows of `encode_messages`, packed or not, shape (N, L + 1).
    Edge cases:
        no rows -> None
    """
    if not len(rows):
        return None
    chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_ANCHOR_ROWS).astype(np.int64))
    return np.ascontiguousarray(rows[chosen], np.int32)


def anchor_problem(rows: I32, vocabulary: Vocabulary) -> str:
    """Return what keeps these rows from being an anchor text for this vocabulary; empty: nothing does."""
    if rows.dtype != np.int32 or rows.ndim != 2:
        return f"an anchor text is rows of int32 ids, not {rows.dtype} of shape {rows.shape}"
    if not (1 <= rows.shape[0] <= MAX_ANCHOR_ROWS and 2 <= rows.shape[1] <= MAX_ANCHOR_COLUMNS):
        return (
            f"an anchor text has 1 to {MAX_ANCHOR_ROWS} rows of 2 to {MAX_ANCHOR_COLUMNS} ids, "
            f"not {rows.shape[0]} of {rows.shape[1]}"
        )
    if rows.min() < 0 or rows.max() >= len(vocabulary):
        return f"an id of the anchor text is not in a vocabulary of {len(vocabulary)} words"
    return "" if anchor_tokens(rows, vocabulary) else "the anchor text has no word that could be suggested"


def anchor_tokens(rows: I32, vocabulary: Vocabulary) -> int:
    """Return how many targets of an anchor text are words that could be suggested: what its loss is over."""
    return int(vocabulary.is_displayable[rows[:, 1:]].sum())


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
