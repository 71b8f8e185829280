"""Every value as int8, one scale a row.

A row is a vocabulary row of the embedding, a row of a matrix, or a whole bias vector. One scale a row rather
than a tensor: rows of rare words are thousands of times smaller than those of common ones, and would all
become zero under the tensor's scale.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.errors import NonFinite
from keyflock_compression.family import Encoded, StreamReader
from keyflock_compression.layout import Layout, blocks
from keyflock_compression.rounding import to_whole
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate

LEVELS: Final = 127


class DenseCodec:
    """One stream of P bytes; one scale a row: the row's largest magnitude over 127.

    Guarantees:
        A value's error is at most half a scale (nearest), or below one scale and zero in expectation
        (stochastic), up to float32 rounding.
    """

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """Each row over its scale, as int8."""
        scales = row_scales(delta, layout)
        whole = to_whole(
            delta / _spread(np.maximum(scales, np.finfo(np.float32).tiny), layout), spec.rounding, seed
        )
        return Encoded(scales, (np.clip(whole, -LEVELS, LEVELS).astype(np.int8).tobytes(),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """Each int8 times its row's scale."""
        streams.expect(1)
        whole = np.frombuffer(streams.read(0, layout.size), np.int8)
        with np.errstate(over="ignore"):
            values = scaled_rows(whole, scales, layout)
        # Only a scale that no encoder writes gets there; finite ones need no look at every value.
        if scales.max(initial=0.0) > np.finfo(np.float32).max / 129 and not np.isfinite(values).all():
            raise NonFinite("a value times its row's scale is infinite")
        return DenseUpdate(values)


def row_scales(vector: Float32, layout: Layout) -> Float32:
    """Each row's largest magnitude over 127. Shape (rows of all tensors,), float32."""
    scales = [
        np.abs(vector[block.offset : block.offset + block.rows * block.columns])
        .reshape(block.rows, block.columns)
        .max(axis=1, initial=0.0)
        for block in blocks(layout)
    ]
    return (np.concatenate(scales) / np.float32(LEVELS)).astype(np.float32)


def scaled_rows(whole: NDArray[np.int8], scales: Float32, layout: Layout) -> Float32:
    """Whole numbers times their row's scale. Shape (P,), float32."""
    vector = np.empty(layout.size, np.float32)
    first = 0
    for block in blocks(layout):
        part = slice(block.offset, block.offset + block.rows * block.columns)
        rows = whole[part].reshape(block.rows, block.columns)
        column = scales[first : first + block.rows, np.newaxis]
        np.multiply(rows, column, out=vector[part].reshape(block.rows, block.columns), casting="unsafe")
        first += block.rows
    return vector


def _spread(scales: Float32, layout: Layout) -> Float32:
    """One scale a value."""
    columns = np.concatenate([np.full(block.rows, block.columns) for block in blocks(layout)])
    return np.repeat(scales, columns)
