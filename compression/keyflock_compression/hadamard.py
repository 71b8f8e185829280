"""A vector turned so that its energy lies evenly on all its values, and back: signs, then Hadamard.

The vector is cut into blocks of 8,192; the last one is filled up with zeros to a power of two. Each block is
its own inverse but for a factor, its length, which whoever calls leaves to a scale.

Source: Ailon and Chazelle 2009 (fast Johnson-Lindenstrauss), doi:10.1137/060673096.
"""

from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.splitmix import numbers

#: Values of a block, but for the last.
BLOCK: Final = 8_192


def block_lengths(size: int) -> tuple[int, ...]:
    """Of each block of a vector of ``size`` values, the zeros behind the last one included."""
    whole, rest = divmod(size, BLOCK)
    return (BLOCK,) * whole + ((1 << (rest - 1).bit_length(),) if rest else ())


def signs(seed: int, size: int) -> Float32:
    """1 and -1, as the seed draws them: bit i mod 64 of its number i / 64 is set for -1. Shape (size,)."""
    bits = np.unpackbits(numbers(seed, -(-size // 64)).astype("<u8").view(np.uint8), bitorder="little")[:size]
    return np.where(bits.view(np.bool_), np.float32(-1), np.float32(1))


def transformed(vector: Float32) -> Float32:
    """Each block through the Walsh-Hadamard transform, without a factor: sums of 1 or -1 times its values.

    Args:
        vector: As many values as ``block_lengths`` of some size say.
    Guarantees:
        Pairs at distance 1, then 2, 4 and so on become their sum and their difference, in float32: the same
        bits on every machine.
    """
    whole = vector.size // BLOCK * BLOCK
    if whole == vector.size or not whole:
        return _columns(vector.reshape(-1, BLOCK if whole else max(1, vector.size)))
    return np.concatenate((transformed(vector[:whole]), transformed(vector[whole:])))


def _columns(rows: Float32) -> Float32:
    """The rows' transforms, one after the other."""
    # A block a column: what is added lies together however near the pair.
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
