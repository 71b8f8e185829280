"""A random rotation that spreads a vector's energy evenly over its values: random signs, then Hadamard.

The vector is cut into blocks of 8,192; the last one is padded with zeros to a power of two. The transform is
its own inverse up to a factor, the block's length, which the caller folds into a scale.

Source: Ailon and Chazelle 2009 (fast Johnson-Lindenstrauss), doi:10.1137/060673096.
"""

from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.splitmix import splitmix64

#: Number of values in every block but the last.
BLOCK: Final = 8_192


def block_lengths(size: int) -> tuple[int, ...]:
    """Return the length of each block of a vector of ``size`` values, with the padding of the last one."""
    full_blocks, rest = divmod(size, BLOCK)
    return (BLOCK,) * full_blocks + ((1 << (rest - 1).bit_length(),) if rest else ())


def random_signs(seed: int, size: int) -> Float32:
    """Draw 1 and -1 from the seed: -1 where bit i mod 64 of its number i / 64 is set. Shape (size,)."""
    bits = np.unpackbits(splitmix64(seed, -(-size // 64)).astype("<u8").view(np.uint8), bitorder="little")[
        :size
    ]
    return np.where(bits.view(np.bool_), np.float32(-1), np.float32(1))


def hadamard_transform(vector: Float32) -> Float32:
    """Apply the Walsh-Hadamard transform to each block, without the factor that would keep its norm.

    Args:
        vector: A vector that is padded to the sum of its ``block_lengths``.
    Guarantees:
        Pairs at distance 1, then 2, 4 and so on become their sum and their difference, in float32: the same
        bits on every machine.
    """
    end = vector.size // BLOCK * BLOCK
    if end == vector.size or not end:
        return _transform_rows(vector.reshape(-1, BLOCK if end else max(1, vector.size)))
    return np.concatenate((hadamard_transform(vector[:end]), hadamard_transform(vector[end:])))


def _transform_rows(rows: Float32) -> Float32:
    """Transform each row; return them one after the other in a flat vector."""
    # One block per column: the values that are added are contiguous at every distance.
    columns = np.array(rows.T, order="C")
    length, count = columns.shape
    half = 1
    while half < length:
        pairs = columns.reshape(-1, 2, half, count)
        differences = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = differences
        half *= 2
    return np.ascontiguousarray(columns.T).reshape(-1)
