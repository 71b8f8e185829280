"""This module draws what a head still gives as the trunk changes, under each policy."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np

from keyflock_client_sim.experiments.drift.report import DriftResult
from keyflock_client_sim.experiments.drift.users import DROP, KEEP, MAP, MAP_AND_REFIT, REFIT

_STYLES: Final = {
    DROP: ("grey", "-"),
    KEEP: ("#d94801", "-"),
    REFIT: ("#74c476", "--"),
    MAP: ("#08519c", "-"),
    MAP_AND_REFIT: ("#54278f", "-"),
}


def save_drift(found: DriftResult, path: Path, *, title: str) -> None:
    """Draw into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    versions = np.arange(len(found.moved))
    for policy, (color, line) in _STYLES.items():
        left.plot(versions, found.gain(policy), line, color=color, label=policy, linewidth=1.4)
        loss = found.loss(policy) - found.loss(DROP)
        right.plot(versions, loss, line, color=color, label=policy, linewidth=1.4)
    left.set_ylabel("recall@3 of the head alone minus the global model's, points")
    right.set_ylabel("loss minus the global model's, nats a word")
    left.legend(fontsize="small")
    for panel in (left, right):
        panel.set_xlabel("version of the trunk; heads were fitted on version 0")
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
