"""The search for the finest step whose container fits a byte budget, for phones on metered networks.

Unlike the error, the length is known only after encoding, so each attempt is a whole encoding: about ten of
them, on the phone.
"""

from collections.abc import Callable
from math import sqrt
from typing import Final

from keyflock_compression.errors import LimitExceeded

#: Range of steps in units of the root mean square; above the upper one hardly any value is not zero.
_RANGE: Final = (0.05, 1000.0)
_ATTEMPTS: Final = 9


def finest_container_within(budget_bytes: int, container_of: Callable[[float], bytes]) -> bytes:
    """Return the container of the finest step that was found to fit.

    Args:
        budget_bytes: The maximum length of the container.
        container_of: Encodes with a step of the given number of root mean squares.
    Guarantees:
        The container has at most ``budget_bytes`` bytes.
    Raises:
        LimitExceeded: not even the coarsest step fits.
    """
    low, high = _RANGE
    fitting = container_of(high)
    if len(fitting) > budget_bytes:
        raise LimitExceeded(
            f"budget_bytes is {budget_bytes}, and the coarsest step takes {len(fitting)} bytes"
        )
    for _ in range(_ATTEMPTS):
        middle = sqrt(low * high)
        tried = container_of(middle)
        if len(tried) <= budget_bytes:
            high, fitting = middle, tried
        else:
            low = middle
    return fitting
