"""Which deltas are too long to be honest: the bound is a multiple of the median of those accepted so far.

And one bound that always holds, also before there is a median: without it a single phone could send a delta
that is finite and whose weighted sum is not, and the sum of everyone would be lost.
"""

from collections import deque
from math import inf
from statistics import median
from typing import Final

#: Norms that the median is taken over.
_WINDOW: Final = 255
#: Before so many were accepted there is no bound: a median of few is no median.
_WARM_UP: Final = 8
#: No delta of a model that works comes near; 1e5 of them at the largest weight still fit float32.
MAX_NORM: Final = 1e6


class NormBound:
    """A running bound on the L2 norm of updates.

    Args:
        max_ratio: Norms above this many medians are beyond the bound; 0 means only ``MAX_NORM`` bounds.
    Guarantees:
        What is admitted is finite and at most ``MAX_NORM``.
    Source:
        docs/decisions/0010; the running median of accepted norms as in adaptive clipping (Andrew et al. 2021,
        arXiv:1905.03871), without its privacy.
    """

    def __init__(self, max_ratio: float) -> None:
        self._max_ratio = max_ratio
        self._accepted: deque[float] = deque(maxlen=_WINDOW)

    @property
    def bound(self) -> float:
        """The largest norm that is accepted now; ``MAX_NORM`` while there is no median."""
        return min(MAX_NORM, self.times_median(self._max_ratio))

    def times_median(self, ratio: float) -> float:
        """So many medians of the accepted norms; infinite for ratio 0, and while there is no median."""
        if ratio == 0.0 or len(self._accepted) < _WARM_UP:
            return inf
        return ratio * median(self._accepted)

    def admits(self, l2_norm: float) -> bool:
        """Whether an update of this norm is within the bound, NaN never; changes nothing."""
        return l2_norm <= self.bound

    def accept(self, l2_norm: float) -> None:
        """Take the norm of an accepted update into the median; a zero update says nothing of the scale."""
        if l2_norm > 0.0:
            self._accepted.append(l2_norm)
