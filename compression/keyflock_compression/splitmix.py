"""A generator of random numbers that gives the same numbers on a phone in any language.

Phone and server draw the same numbers from the seed, so the numbers themselves are never sent.

It is a counter and a mixer: the i-th number needs none before it, and takes five lines of Kotlin or Swift.

Source: Steele, Lea and Flood 2014 (SplitMix), doi:10.1145/2660193.2660195; constants of Vigna's
splitmix64.c, whose i-th output this is.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Bytes of a seed on the wire, little-endian.
SEED_BYTES: Final = 8
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the seed's first ``count`` numbers of 64 bits each. Shape (count,).

    Args:
        seed: In [0, 2**64).
        count: The number of numbers.
    """
    # In place, so that only two arrays of this size are ever allocated.
    mixed = np.arange(1, count + 1, dtype=np.uint64)
    mixed *= _GOLDEN
    mixed += np.uint64(seed)
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed
