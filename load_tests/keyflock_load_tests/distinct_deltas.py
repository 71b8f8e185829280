"""As many distinct deltas as there are phones, out of some that were encoded beforehand.

A delta is encoded in a hundred times the time in which it is sent. Here the scales of an encoded one are made
a little smaller, by a millionth for each further phone: other numbers, and the same work for the server.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from keyflock_compression import DecodeLimits
from keyflock_compression.container import parse

_STEP: Final = 2.0**-20
#: Further ones would be a tenth shorter than they should be.
_MAX_STEPS: Final = 100_000


class DistinctDeltas:
    """Deltas by number, each encoded; no two numbers have equal deltas.

    Args:
        containers: The encoded deltas to begin with; each must have a scale.
    """

    def __init__(self, containers: Sequence[bytes]) -> None:
        self._containers = [parse(one, DecodeLimits(max_container_bytes=len(one))) for one in containers]
        self.mean_bytes = sum(map(len, containers)) / len(containers)

    def __getitem__(self, number: int) -> bytes:
        """Return the delta of this number."""
        steps, base = divmod(number, len(self._containers))
        if steps > _MAX_STEPS:
            raise IndexError(f"there are {_MAX_STEPS * len(self._containers):,} deltas")
        container = self._containers[base]
        scales = np.frombuffer(container.scales, "<f4") * np.float32(1.0 - steps * _STEP)
        return replace(container, scales=scales.astype("<f4").tobytes()).to_bytes()
