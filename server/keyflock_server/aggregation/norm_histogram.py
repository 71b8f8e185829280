"""A histogram of a round's delta norms in coarse bins, stored with a sum instead of single norms.

A bin is a factor of the square root of two wide, so that a stored sum of four reports gives each norm only
within about 40 %, and not whose it was. The counts of several processes add up.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Number of bins for a doubling of the norm.
_BINS_A_DOUBLING: Final = 2
#: Binary logarithms of the shortest and the longest norm with bins of their own.
_LOWEST, _HIGHEST = -40, 20
BINS: Final = _BINS_A_DOUBLING * (_HIGHEST - _LOWEST)

Counts = NDArray[np.int64]


class NormHistogram:
    """Counts of norms, by the codec table of their reports (``TaskSpec.codecs`` has the names)."""

    def __init__(self, counts: Mapping[str, Counts] | None = None) -> None:
        self.counts: dict[str, Counts] = dict(counts or {})

    def add(self, table: str, l2_norm: float) -> None:
        """Count one norm, which is above 0 and finite."""
        bin_index = math.floor(_BINS_A_DOUBLING * (math.log2(l2_norm) - _LOWEST))
        counts = self.counts.setdefault(table, np.zeros(BINS, np.int64))
        counts[min(max(bin_index, 0), BINS - 1)] += 1

    def merged(self, other: "NormHistogram") -> "NormHistogram":
        """Return the counts of both; neither is changed."""
        nothing = np.zeros(BINS, np.int64)
        return NormHistogram(
            {
                table: self.counts.get(table, nothing) + other.counts.get(table, nothing)
                for table in self.counts.keys() | other.counts.keys()
            }
        )

    def count(self, table: str) -> int:
        """Return the number of norms."""
        return int(self.counts[table].sum()) if table in self.counts else 0

    def median(self, table: str) -> float:
        """Return the median norm, interpolated within its bin.

        Raises:
            ValueError: there are no norms.
        """
        half = self.count(table) / 2
        if not half:
            raise ValueError(f"no norm of {table} was counted")
        running = np.cumsum(self.counts[table])
        bin_index = int(np.searchsorted(running, half))
        within = self.counts[table][bin_index]
        share = (half - (running[bin_index] - within)) / within
        return float(2.0 ** (_LOWEST + (bin_index + share) / _BINS_A_DOUBLING))
