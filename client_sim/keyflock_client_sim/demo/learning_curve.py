"""This module draws the learning curve as a PNG: recall by round on held-out phones, baselines as lines."""

from pathlib import Path

import matplotlib as mpl

from keyflock_client_sim.demo.result import DemoResult, Recall


def save_learning_curve(result: DemoResult, path: Path) -> None:
    """Draw ``result`` into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, suggestions in zip(panels, (1, 3), strict=True):

        def percent(recall: Recall, suggestions: int = suggestions) -> float:
            return 100.0 * (recall.at_1 if suggestions == 1 else recall.at_3)

        measured = [(0, percent(result.start_on_sample))]
        measured += [(row.version, percent(row.recall)) for row in result.rounds if row.recall is not None]
        panel.plot(*zip(*measured, strict=True), ".-", color="#08519c", label="a sample of their text")
        ends = ([0, measured[-1][0]], [percent(result.start), percent(result.end)])
        panel.plot(*ends, "D", color="#d94801", label="all their text: version 0 and the last")
        for name, recall, style in (("trigram", result.trigram, "--"), ("unigram", result.unigram, ":")):
            panel.axhline(percent(recall), linestyle=style, color="grey", label=f"{name} (central)")
        panel.set_title(f"recall@{suggestions}")
        panel.set_xlabel("model version")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_ylabel("%")
        panel.grid(alpha=0.3)
    panels[0].legend(loc="best", fontsize="small")
    figure.suptitle(
        f"keyflock demo: {result.devices} phones learn, {result.held_out_devices} others are asked"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
