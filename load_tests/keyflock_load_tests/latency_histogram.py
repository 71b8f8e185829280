"""A histogram of latencies with three significant digits, from a microsecond to hours, in 200 kB.

Buckets are those of HdrHistogram: within each power of two the values are divided evenly, so every value is
kept to 0.1 %. PyPI's ``hdrhistogram`` was
looked at: it needs ``pbr`` and a recent ``setuptools`` where it runs, and records values one by one; this is
one array, and NumPy fills it.

Source: Gil Tene, HdrHistogram, https://hdrhistogram.org.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

_UNITS_PER_MS: Final = 1_000
#: Each power of two has so many buckets, which gives three significant digits.
_SUB_BUCKETS: Final = 1_024
_MAX_EXPONENT: Final = 34
_BUCKETS: Final = _SUB_BUCKETS * (_MAX_EXPONENT + 2)


@dataclass(frozen=True, slots=True, eq=False)
class LatencyHistogram:
    """Counts of latencies."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BUCKETS, np.int64))

    @classmethod
    def of(cls, latencies_s: ArrayLike) -> Self:
        """Return the histogram of these latencies in seconds; negative ones count as zero."""
        return cls(np.bincount(_bucket_of(np.asarray(latencies_s, np.float64)), minlength=_BUCKETS))

    @property
    def count(self) -> int:
        """Return the number of latencies."""
        return int(self.counts.sum())

    def quantile_ms(self, ratio: float) -> float:
        """Return the smallest value with at least this share of latencies at or below it, in milliseconds.

        Edge cases:
            no latencies -> NaN
        """
        if not self.count:
            return float("nan")
        rank = max(1, int(np.ceil(ratio * self.count)))
        return _highest_ms(int(np.searchsorted(np.cumsum(self.counts), rank)))

    def percentiles(self) -> dict[str, float]:
        """Return the quantiles that reports show, in milliseconds."""
        shown = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
        return {name: self.quantile_ms(ratio) for name, ratio in shown.items()}


def _bucket_of(latencies_s: NDArray[np.float64]) -> NDArray[np.int64]:
    units = np.clip(
        np.nan_to_num(latencies_s) * (1e3 * _UNITS_PER_MS), 0, 2.0 ** (_MAX_EXPONENT + 10) - 1
    ).astype(np.int64)
    # Below two times the sub-buckets a unit is a bucket; above, a value is shifted until it is below.
    exponent = np.maximum(np.frexp(units.astype(np.float64))[1] - 11, 0)
    buckets: NDArray[np.int64] = exponent * _SUB_BUCKETS + (units >> exponent)
    return buckets


def _highest_ms(bucket: int) -> float:
    """Return the highest value of a bucket in milliseconds."""
    exponent = max(0, bucket // _SUB_BUCKETS - 1)
    return ((((bucket - exponent * _SUB_BUCKETS) + 1) << exponent) - 1) / _UNITS_PER_MS
