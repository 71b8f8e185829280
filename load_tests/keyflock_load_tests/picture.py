"""This module draws a run over time: load, latency, and the server's memory and processor."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from keyflock_load_tests.arrivals import rate_per_s
from keyflock_load_tests.measurement import LOST_ON_PURPOSE
from keyflock_load_tests.result import LoadTestResult


def save_picture(result: LoadTestResult, path: Path) -> None:
    """Draw ``result`` into ``path``; no display is needed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (load, latency, vitals) = plt.subplots(3, 1, sharex=True, figsize=(10, 9), layout="constrained")
    plan = result.scenario.arrivals
    seconds = np.arange(0.0, plan.duration_s, 1.0)
    samples = [sample for sample in result.measurements.samples if sample.outcome != LOST_ON_PURPOSE]

    due = [sample.due_at_s for sample in samples if sample.call == "check_in"]
    load.hist(due, bins=np.append(seconds, plan.duration_s), color="#9ecae1", label="check-ins a second")
    load.plot(seconds, [rate_per_s(plan, at_s) for at_s in seconds], color="#08519c", label="scheduled rate")
    load.set_ylabel("arrivals/s")
    load.legend(loc="upper left")
    load.set_title(f"{result.scenario.name}: {result.scenario.purpose}")

    for call in sorted({sample.call for sample in samples}):
        points = [(sample.due_at_s, sample.latency_s * 1e3) for sample in samples if sample.call == call]
        latency.plot(*zip(*points, strict=True), ".", markersize=3, alpha=0.6, label=call)
    latency.set_yscale("log")
    latency.set_ylabel("latency from due instant, ms")
    latency.legend(loc="upper left", ncols=5, markerscale=4)

    at_s = [sample.at_s for sample in result.vitals]
    vitals.plot(at_s, [sample.rss_mib for sample in result.vitals], color="#54278f")
    vitals.set_ylabel("server RSS, MiB", color="#54278f")
    vitals.set_ylim(bottom=0)
    vitals.set_xlabel("seconds since start")
    cores = vitals.twinx()
    cores.plot(at_s, [sample.cpu_ratio for sample in result.vitals], color="#d94801", linewidth=1)
    cores.set_ylabel("server CPU, cores", color="#d94801")
    cores.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)
    plt.close(figure)
