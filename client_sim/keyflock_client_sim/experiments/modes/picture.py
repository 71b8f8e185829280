"""This module draws recall@3 of both modes over virtual hours, and over reports."""

from pathlib import Path
from typing import Final

import matplotlib as mpl

from keyflock_client_sim.experiments.modes.options import ASYNC, MODES, SYNC
from keyflock_client_sim.experiments.modes.report import SHARES, ModesComparison

_COLORS: Final = {SYNC: "#d94801", ASYNC: "#08519c"}
_NAMES: Final = {SYNC: "synchronous rounds", ASYNC: "buffered asynchronous"}


def save_modes(found: ModesComparison, path: Path, *, title: str) -> None:
    """Draw into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for mode in MODES:
        for number, run in enumerate(found.runs[mode]):
            recalls = [100 * point.recall_at_3 for point in run.points]
            style = {"color": _COLORS[mode], "linewidth": 1.2, "alpha": 0.85}
            name = _NAMES[mode] if number == 0 else None
            left.plot([point.at_h for point in run.points], recalls, label=name, **style)
            right.plot([point.reports for point in run.points], recalls, label=name, **style)
    for panel in (left, right):
        panel.axhline(100 * found.target(SHARES[-1]), color="grey", linestyle=":", label="target")
        panel.grid(alpha=0.3)
    left.set_ylabel("recall@3 on phones that took no part, %")
    left.set_xlabel("virtual hours")
    right.set_xlabel("reports in the model")
    left.legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
