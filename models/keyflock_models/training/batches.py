"""Batches of equal shapes from sequences, with the positions of their targets listed.

A text message has eight words, and a row has room for twenty. The network's most expensive part, the product
with the vocabulary, is computed only for positions that hold a target.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import I32, I64
from keyflock_models.text.special_tokens import BOS, PAD


class Batches(NamedTuple):
    """S batches of B sequences of L inputs, with up to K targets each; one batch has no axis S."""

    #: Token ids, shape (S, B, L).
    inputs: jax.Array
    #: Positions of the targets in the flattened (B * L) outputs, shape (S, K).
    positions: jax.Array
    #: Token ids, shape (S, K).
    targets: jax.Array
    #: 1 for a target, 0 for padding, shape (S, K).
    weights: jax.Array


def make_batches(sequences: I32, order: I64, batch_size: int) -> Batches:
    """Make batches of the sequences in this order.

    Args:
        sequences: Rows of ids, shape (N, L + 1); special tokens have their ids.
        order: Indices of rows, a multiple of `batch_size` of them; -1 is an empty row.
        batch_size: The number of rows per batch.
    Guarantees:
        Every id but PAD and BOS in the last L columns of a row in the order is a target once. K is a
        quarter, half, three quarters or all of B * L, so that few shapes are ever compiled.
    """
    length = sequences.shape[1] - 1
    steps = len(order) // batch_size
    taken = np.where(order[:, None] >= 0, sequences[order], PAD).reshape(steps, batch_size, length + 1)
    targets = taken[:, :, 1:].reshape(steps, -1)
    is_target = (targets != PAD) & (targets != BOS)
    quarter = -(-batch_size * length // 4)
    room = min(
        batch_size * length, quarter * max(1, -(-int(is_target.sum(axis=1).max(initial=0)) // quarter))
    )
    # A stable sort by "is padding" lists the targets' positions in order, then the rest.
    positions = np.argsort(~is_target, axis=1, kind="stable")[:, :room].astype(np.int32)
    return Batches(
        inputs=jnp.asarray(taken[:, :, :-1]),
        positions=jnp.asarray(positions),
        targets=jnp.asarray(np.take_along_axis(targets, positions, axis=1)),
        weights=jnp.asarray(np.take_along_axis(is_target, positions, axis=1), jnp.float32),
    )


def padded_order(order: I64, multiple: int) -> I64:
    """Return the order with empty rows (-1) at its end, so that its length is a multiple of this."""
    return np.concatenate([order, np.full(-len(order) % multiple, -1, np.int64)])
