"""Rounding of real numbers to whole ones: to the nearest, or at random so that the mean is right."""

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.spec import Rounding


def quantize(scaled: Float32, rounding: Rounding, seed: int) -> Float32:
    """Round ``scaled`` to whole numbers, which are still float32.

    Args:
        scaled: The values in units of the step. Any shape.
        rounding: ``nearest`` rounds half to even; ``stochastic`` rounds up with the fraction's probability.
        seed: The seed of stochastic rounding; unused for ``nearest``.
    Guarantees:
        nearest: the error is at most one half. stochastic: it is below one, and zero in expectation.
    """
    if rounding == "nearest":
        nearest: Float32 = np.rint(scaled)
        return nearest
    draws: Float32 = np.random.Generator(np.random.SFC64(seed)).random(scaled.shape, dtype=np.float32)
    rounded: Float32 = np.floor(scaled + draws)
    return rounded
