"""A picture as PNG: check-ins a second over the last day, with fixed and with steered return windows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

_COLORS: Final = {False: "#d94801", True: "#08519c"}
_NAMES: Final = {False: "fixed", True: "steered"}
_DAY_S: Final = 86_400.0

Run = tuple[int, bool, NDArray[np.int64], NDArray[np.float64]]


def save_arrivals(runs: Sequence[Run], path: Path, *, step_s: float, start_s: float) -> None:
    """Draw the picture into ``path``; it needs no display.

    Args:
        runs: Phones, whether steered, check-ins in each step, share of idle phones in each step.
        path: The picture.
        step_s: The length of a step.
        start_s: Hour of the day at which they begin, in seconds.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    populations = sorted({phones for phones, *_ in runs})
    figure, panels = plt.subplots(
        len(populations), 2, figsize=(12, 3.6 * len(populations)), layout="constrained", squeeze=False
    )
    a_minute, a_day = round(60.0 / step_s), round(_DAY_S / step_s)
    last = slice(-a_day // a_minute, None)
    for phones, is_paced, arrivals, idle_share in runs:
        row = panels[populations.index(phones)]
        per_s = arrivals.reshape(-1, a_minute).sum(axis=1) / 60.0
        hours = (start_s + 60.0 * np.arange(len(per_s))) / 3_600.0
        of_day = hours[last] - 24.0 * (hours[last][0] // 24)
        name, color = _NAMES[is_paced], _COLORS[is_paced]
        row[0].plot(hours[:360], per_s[:360], color=color, label=name, linewidth=0.9)
        row[1].plot(of_day, per_s[last], color=color, linewidth=0.9)
        if is_paced:
            shade = row[1].twinx()
            shade.fill_between(of_day, idle_share[::a_minute][last], color="grey", alpha=0.15)
            shade.set_ylim(0.0, 1.0)
            shade.set_ylabel("share of phones idle (grey)")
        row[0].set_title(f"{phones:,} phones: the six hours after all enrolled at 2 h")
        row[1].set_title(f"{phones:,} phones: the third day")
        for panel in row:
            panel.set_ylabel("check-ins a second, by the minute")
            panel.set_xlabel("hour")
            panel.set_yscale("log" if phones > 1_000 else "linear")
            panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
