"""A picture as PNG: the server's memory over a day, and below it the check-ins and reports by hour."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.day_figures import DayFigures


def save_day(day: DayFigures, path: Path) -> None:
    """Draw the picture into ``path``; it needs no display."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(10, 6), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    hours, sizes = np.asarray(day.memory).T
    upper.plot(hours, sizes, ".-", color="#08519c", linewidth=1.0, markersize=4)
    half = hours >= day.hours / 2
    centre = hours[half].mean()
    line = sizes[half].mean() + day.growth.per_time * (hours[half] - centre)
    interval = f"[{day.growth.low:+.2f}, {day.growth.high:+.2f}]"
    upper.plot(hours[half], line, color="#d94801", label=f"{day.growth.per_time:+.2f} {interval} MB an hour")
    upper.set_ylim(0.0, 1.25 * sizes.max())
    upper.set_ylabel("resident memory of the server process, MB")
    upper.legend(loc="lower right")
    positions = np.arange(len(day.check_ins_by_hour)) + 0.5
    lower.bar(positions - 0.2, day.check_ins_by_hour, 0.4, color="#6baed6", label="check-ins")
    lower.bar(positions + 0.2, day.reports_by_hour, 0.4, color="#74c476", label="reports acknowledged")
    lower.set_ylabel("an hour")
    lower.set_xlabel("hour of the day, virtual")
    lower.legend()
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
    figure.suptitle(f"{day.phones:,} phones, one server process, SQLite")
    figure.savefig(path, dpi=110)
    plt.close(figure)
