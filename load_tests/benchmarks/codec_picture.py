"""Bits against the mean's error: the nearer to the lower left the better."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib import pyplot as plt

#: Bounds of the error that is drawn; beyond them a method sends almost nothing of a delta, or all of it.
_ERRORS: Final = (4e-3, 1.0)
#: Points so near to each other, as a ratio, share a label.
_SAME: Final = 1.06
_EDGE_BITS: Final = 1.5


@dataclass(frozen=True, slots=True)
class CodecPoint:
    """One method's bits and error."""

    name: str
    bits: float
    error: float
    #: A color name of matplotlib.
    colour: str


def save_codecs(points: Iterable[CodecPoint], line: Iterable[CodecPoint], file: Path, phones: int) -> None:
    """Draw the picture.

    Args:
        points: Methods; those outside the picture are left out.
        line: Settings of one method, joined, in the order of their bits.
        file: Where the PNG goes.
        phones: Number of phones in the mean.
    """
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    joined = sorted(line, key=lambda one: one.bits)
    axes.plot([one.bits for one in joined], [one.error for one in joined], "-", color=joined[0].colour, lw=1)
    for group in _grouped([*joined, *points]):
        first = group[0]
        axes.plot(first.bits, first.error, "o", color=first.colour, ms=7)
        # The line's labels below it; of the others, those at the picture's right edge on their left.
        is_left_of = first in joined or first.bits > _EDGE_BITS
        axes.annotate(
            " = ".join(one.name for one in group),
            (first.bits, first.error),
            (-7 if is_left_of else 7, -10 if first in joined else 3),
            textcoords="offset points",
            ha="right" if is_left_of else "left",
            fontsize=8,
        )
    axes.set(
        xscale="log",
        yscale="log",
        ylim=_ERRORS,
        xlabel="bits a parameter (logarithmic)",
        ylabel=f"NMSE of the mean of {phones} phones (logarithmic)",
        title="blue: keyflock's codecs, red: the default; gray: others', from their papers",
    )
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _grouped(points: list[CodecPoint]) -> list[list[CodecPoint]]:
    """Group points that lie on each other, and leave out those outside the picture."""
    groups: list[list[CodecPoint]] = []
    for point in points:
        if not _ERRORS[0] <= point.error <= _ERRORS[1]:
            continue
        near = (group for group in groups if _distance(group[0], point) < math.log(_SAME))
        found = next(near, None)
        if found is None:
            groups.append([point])
        else:
            found.append(point)
    return groups


def _distance(one: CodecPoint, other: CodecPoint) -> float:
    return max(abs(math.log(one.bits / other.bits)), abs(math.log(one.error / other.error)))
