"""Real numbers to whole ones: the nearest, or at random so that the mean is right."""

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.spec import Rounding


def to_whole(scaled: Float32, rounding: Rounding, seed: int) -> Float32:
    """``scaled`` rounded to whole numbers, still float32.

    Args:
        scaled: In units of the step. Any shape.
        rounding: ``nearest`` rounds half to even; ``stochastic`` rounds up with probability of the fraction.
        seed: Of the stochastic draw; unused for ``nearest``.
    Guarantees:
        nearest: the error is at most one half. stochastic: it is below one, and zero in expectation.
    """
    if rounding == "nearest":
        nearest: Float32 = np.rint(scaled)
        return nearest
    draws: Float32 = np.random.Generator(np.random.SFC64(seed)).random(scaled.shape, dtype=np.float32)
    whole: Float32 = np.floor(scaled + draws)
    return whole
