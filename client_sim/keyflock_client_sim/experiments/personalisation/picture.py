"""This module draws which users gain how much, and how the gain grows with the words typed."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from keyflock_client_sim.experiments.personalisation.arms import GLOBAL
from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult


def save_picture(found: PersonalisationResult, path: Path, *, title: str) -> None:
    """Draw into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    before = 100.0 * found.measure(GLOBAL, "at_3").values
    gain = found.gain()
    places = np.array([user.places for user in found.users])
    left.axhline(0.0, color="grey", linewidth=0.8)
    styles = (("#d94801", "gate shut"), ("#6baed6", "one place"), ("#08519c", "two places"))
    for given, (color, label) in enumerate(styles):
        left.scatter(before[places == given], gain[places == given], s=14, color=color, label=label)
    left.set_xlabel("recall@3 of the global model, %")
    left.set_ylabel("gain of the product, points")
    left.set_title("each dot a user, on later messages")
    left.legend(fontsize="small")
    points = found.curve()
    if points:
        words = [point.words for point in points]
        right.plot(words, [100 * point.blend for point in points], ".-", color="#08519c", label="blend")
        right.plot(words, [100 * point.trunk for point in points], ".-", color="grey", label="global model")
        for point in points:
            right.annotate(
                f"{point.users}",
                (point.words, 100 * point.blend),
                fontsize=7,
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
            )
        right.set_xscale("log")
        right.set_xticks(words, [str(count) for count in words])
        right.minorticks_off()
        right.legend(fontsize="small")
    right.set_xlabel("words typed so far (figures: users)")
    right.set_ylabel("recall@3 of the words up to there, %")
    right.set_title("before each word was learned")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
