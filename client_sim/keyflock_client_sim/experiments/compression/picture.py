"""This module draws recall@1 of every arm over rounds, and over the bytes that phones had sent."""

from pathlib import Path
from typing import Final

import matplotlib as mpl

from keyflock_client_sim.experiments.compression.report import BASELINE, CompressionCost

_COLORS: Final = ("#525252", "#08519c", "#d94801", "#238b45", "#6a51a3", "#a50f15")
_MARKS: Final = "osD^vP"


def save_cost(found: CompressionCost, path: Path, *, title: str) -> None:
    """Draw into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
    for number, arm in enumerate(found.runs):
        curves = 100 * found.curve(arm, 1)
        mean, lowest, highest = curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)
        sent_mb = found.sent_bytes(arm) / 1e6
        color, mark = _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]
        name = f"{arm}, {found.bits_per_parameter(arm):.2g} bits a parameter"
        # Nothing is sent for version 0, and a logarithm has no nothing.
        for panel, across, begin in ((left, found.rounds, 0), (right, sent_mb, 1)):
            panel.plot(across[begin:], mean[begin:], color=color, marker=mark, ms=4, lw=1.4, label=name)
            panel.fill_between(across[begin:], lowest[begin:], highest[begin:], color=color, alpha=0.12, lw=0)
    start = 100 * found.curve(BASELINE, 1)[0, 0]
    for panel in (left, right):
        panel.axhline(start, color="grey", linestyle=":", label="version 0")
    right.set_xscale("log")
    left.set_ylabel("recall@1, mean over held-out users, %")
    left.set_xlabel("rounds")
    right.set_xlabel("sent by all phones together, MB (logarithmic)")
    left.set_title("after the same rounds")
    right.set_title("after the same bytes")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize="small")
    bands = f"; bands: min and max of {len(found.seeds)} runs" if len(found.seeds) > 1 else ""
    figure.suptitle(f"{title}{bands}")
    figure.savefig(path, dpi=110)
    plt.close(figure)
