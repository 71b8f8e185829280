"""Sequences become equally shaped batches, with the places of their targets apart.

A text message has eight words, a row has room for twenty. The network's most expensive part, the product
with the vocabulary, is done for the places that hold a target only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import I32, I64
from keyflock_models.special_tokens import BOS, PAD


class Batches(NamedTuple):
    """S batches of B sequences of L inputs, with up to K targets each; also one batch, without the S."""

    #: Token ids, shape (S, B, L).
    inputs: jax.Array
    #: Places of the targets in the flattened (B * L) outputs, shape (S, K).
    places: jax.Array
    #: Token ids, shape (S, K).
    targets: jax.Array
    #: 1 for a target, 0 for filling, shape (S, K).
    weights: jax.Array


def batches_of(sequences: I32, order: I64, batch_size: int) -> Batches:
    """The sequences in this order as batches.

    Args:
        sequences: Rows of ids, shape (N, L + 1); special tokens have their ids.
        order: Indices of rows, a multiple of `batch_size` of them; -1 is an empty row.
        batch_size: Rows a batch.
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
    # A stable sort by "is filling" lists the targets' places in order, then the rest.
    places = np.argsort(~is_target, axis=1, kind="stable")[:, :room].astype(np.int32)
    return Batches(
        inputs=jnp.asarray(taken[:, :, :-1]),
        places=jnp.asarray(places),
        targets=jnp.asarray(np.take_along_axis(targets, places, axis=1)),
        weights=jnp.asarray(np.take_along_axis(is_target, places, axis=1), jnp.float32),
    )


def filled_up(order: I64, multiple: int) -> I64:
    """The order with empty rows (-1) at its end, so that its length is a multiple of this."""
    return np.concatenate([order, np.full(-len(order) % multiple, -1, np.int64)])
