"""What a call costs against the size of something, on logarithmic axes: a line of slope 1 is linear."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class GrowingSize:
    """Costs along one size."""

    name: str
    #: By call, and by size: CPU milliseconds.
    costs: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, size: int, call: str, cost_ms: float) -> None:
        """Add one point."""
        self.costs.setdefault(call, {})[size] = cost_ms

    @property
    def sizes(self) -> list[int]:
        """The sizes that were measured, in order."""
        return sorted({size for points in self.costs.values() for size in points})


def growth(axis: GrowingSize) -> dict[str, float]:
    """Return for each call the exponent of its cost between the smallest size and the largest.

    0 is a cost that does not depend on the size, 1 a cost in proportion to it.
    """
    found = {}
    for call, points in axis.costs.items():
        low, high = min(points), max(points)
        if low < high and points[low] > 0.0 and points[high] > 0.0:
            found[call] = round(math.log(points[high] / points[low]) / math.log(high / low), 3)
    return found


def save_scaling(axes: Sequence[GrowingSize], file: Path) -> None:
    """Draw the picture, a panel for each axis; no display is needed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    figure, panels = plt.subplots(
        1, len(axes), sharey=True, figsize=(4.2 * len(axes), 4.4), layout="constrained", squeeze=False
    )
    calls = list(dict.fromkeys(call for axis in axes for call in axis.costs))
    for panel, axis in zip(panels[0], axes, strict=True):
        for call, points in axis.costs.items():
            colour = f"C{calls.index(call)}"
            panel.plot(list(points), list(points.values()), "o-", color=colour, label=call)
        panel.set(xscale="log", yscale="log", xlabel=f"{axis.name} (logarithmic)")
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("CPU of the server a call, ms (logarithmic)")
    handles = [
        Line2D([], [], color=f"C{number}", marker="o", label=call) for number, call in enumerate(calls)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(calls)))
    figure.savefig(file, dpi=110)
    plt.close(figure)
