"""How far a round's devices came, out of what is stored of their assignments; pure.

The session shape is the phone's word for what it went through; the state is the server's. A report that is
counted has been through every step, whatever its phone's shape says.

Source: Bonawitz et al. 2019, Table 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: The characters that say that a device has come as far as a step, by step.
_DOWNLOADED: Final = "v["
_TRAINED: Final = "]+"
_UPLOADED: Final = "+^#"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Assignments of one round that ended alike."""

    state: str
    shape: str
    count: int


@dataclass(frozen=True, slots=True)
class Funnel:
    """Numbers of assignments that came as far as each step, or further."""

    assigned: int
    downloaded: int
    trained: int
    uploaded: int
    counted: int


def funnel(sessions: Iterable[Sessions], counted_state: str) -> Funnel:
    """Return how many assignments came how far.

    Args:
        sessions: All assignments of the round.
        counted_state: The state of an assignment whose report is counted.
    Guarantees:
        No step has more than the one before.
    """
    reached = [0] * 5
    for one in sessions:
        for step in range(_furthest(one, counted_state) + 1):
            reached[step] += one.count
    return Funnel(*reached)


def _furthest(one: Sessions, counted_state: str) -> int:
    if one.state == counted_state:
        return 4
    steps = (_DOWNLOADED, _TRAINED, _UPLOADED)
    return max(
        (place for place, marks in enumerate(steps, 1) if any(mark in one.shape for mark in marks)), default=0
    )


def quantile(ordered: Sequence[float], ratio: float) -> float | None:
    """Return the smallest value that at least this share of the values does not exceed; None without any."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(ratio * len(ordered)) - 1)]
