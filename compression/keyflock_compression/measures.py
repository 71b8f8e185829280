"""The measure of how far an approximation is from its reference."""

import numpy as np

from keyflock_compression.arrays import Float32


def nmse(reference: Float32, approximation: Float32) -> float:
    """Return the squared error over the squared norm of ``reference``.

    0 is exact, and 1 is as bad as sending nothing.


    Edge cases:
        zero reference -> 0 when the approximation is zero too, else infinity
    Source:
        Vargaftik et al. 2022 (EDEN), arXiv:2108.08842, section 2.
    """
    error = float(np.sum(np.square(reference - approximation, dtype=np.float64)))
    energy = float(np.sum(np.square(reference, dtype=np.float64)))
    if energy == 0.0:
        return 0.0 if error == 0.0 else float("inf")
    return error / energy
