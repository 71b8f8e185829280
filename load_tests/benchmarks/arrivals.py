"""When phones arrive, with and without pace steering: 50 and 1,000,000 of them over three days.

make bench-arrivals            (about two minutes)

``arrivals_simulation`` plays the days; here are their figures and the page.
"""

import argparse
import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.arrivals_picture import save_arrivals
from benchmarks.arrivals_simulation import (
    DAY_S,
    DAYS,
    DROP_OUT_SHARE,
    FIXED_RETRY_S,
    START_S,
    STEP_S,
    ArrivalRecord,
    ArrivalScenario,
    ArrivalSimulation,
)
from benchmarks.page import PICTURES, Section, table, write
from keyflock_server.rounds.availability import HOUR_S

HEADER: Final = (
    "phones",
    "return window",
    "check-ins/s",
    "busiest minute to mean of ten, first night, 3 h to 5 h",
    "busiest minute of all days, check-ins/s",
    "check-ins a report",
    "rounds",
    "full within the selection window %",
    "goal met %",
    "to fill, s",
    "a round, s",
)


@dataclass(frozen=True, slots=True)
class ArrivalFigures:
    """The figures of one run: of the last night, 23 h to 5 h, unless a field says otherwise."""

    mean_per_s: float
    #: The busiest minute against the mean of its ten minutes, in the second and third hour after enrolment.
    burst_ratio: float
    #: The busiest minute of all days.
    worst_per_s: float
    check_ins_a_report: float
    rounds: int
    on_time_ratio: float
    goal_ratio: float
    fill_median_s: float
    round_median_s: float


def figures(record: ArrivalRecord) -> ArrivalFigures:
    """Return the figures that the table shows of a run."""
    minutes = record.arrivals.reshape(-1, 3).sum(axis=1)
    tens = minutes[60:180].reshape(12, 10)
    busy = tens.sum(axis=1) >= 600  # in a quieter stretch, bursts are chance
    bursts = tens[busy].max(axis=1) / tens[busy].mean(axis=1) if busy.any() else np.array([np.nan])
    night = [one for one in record.rounds if _is_last_night(one[0])]
    fills = [fill_s if fill_s is not None else math.inf for _, fill_s, _, _ in night]
    window_s = record.scenario.policy.selection_window_s
    met = sum(is_met for *_, is_met in night)
    check_ins_by_minute = [
        count for minute, count in enumerate(minutes.tolist()) if _is_last_night(START_S + 60.0 * minute)
    ]
    return ArrivalFigures(
        mean_per_s=float(np.mean(check_ins_by_minute)) / 60.0,
        burst_ratio=float(bursts.max()),
        worst_per_s=float(minutes.max()) / 60.0,
        check_ins_a_report=sum(check_ins_by_minute) / max(1, met * record.scenario.goal),
        rounds=len(night),
        on_time_ratio=float(np.mean([fill_s <= window_s for fill_s in fills])),
        goal_ratio=met / max(1, len(night)),
        fill_median_s=float(np.median(fills)),
        round_median_s=float(np.median([duration_s for _, _, duration_s, _ in night])),
    )


def _is_last_night(at_s: float) -> bool:
    begins_s = START_S + DAYS * DAY_S - 27.0 * HOUR_S  # the run ends at two in the night
    return begins_s <= at_s < begins_s + 6.0 * HOUR_S


def main() -> None:
    """Run, draw, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--phones", type=int, nargs=2, default=(50, 1_000_000))
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    runs = []
    for phones in options.phones:
        goal = 100 if phones > 1_000 else 20
        for is_paced in (False, True):
            began = time.perf_counter()
            runs.append(ArrivalSimulation(ArrivalScenario(phones, goal, is_paced), seed=1).run())
            print(
                f"{phones:,} phones, paced {is_paced}: {time.perf_counter() - began:.0f} s", figures(runs[-1])
            )
    if options.dry_run:
        return
    small, large = runs[0].scenario, runs[-1].scenario
    body = f"""{table(HEADER, [_row(record) for record in runs])}

Phones are idle about seven hours a night (from 23 h ± 1.5 h on); an app update enrols all of them within
two minutes at 2 h of the first day, and {DAYS} days follow. Rounds of {small.goal} reports for
{small.phones:,} phones and of {large.goal} for {large.phones:,}, 30 % over-selection,
{100 * DROP_OUT_SHARE:.0f} % drop-outs, deadline 600 s; training takes 120 s (median). *Fixed* tells every
phone to come again in {FIXED_RETRY_S:.0f} s and takes whoever comes first; *steered* is the server's own
`rounds.pacing` and `rounds.selection`. Figures without a day are of the last whole night, 23 h to 5 h. In
the selection window: all slots taken within 150 s of the opening, of which selection is choosy for the
first 75 s, so that nobody is preferred for coming often. The steered first minutes are what comes before the
server has counted how many there are.

![arrivals](docs/pictures/arrivals.png)"""
    save_arrivals(
        [
            (record.scenario.phones, record.scenario.is_paced, record.arrivals, record.idle_share)
            for record in runs
        ],
        PICTURES / "arrivals.png",
        step_s=STEP_S,
        start_s=START_S,
    )
    write(Section("arrivals", "When phones arrive", "make bench-arrivals", body))


def _row(record: ArrivalRecord) -> tuple[str, ...]:
    run_figures = figures(record)
    return (
        f"{record.scenario.phones:,}",
        "**steered**" if record.scenario.is_paced else "fixed",
        f"{run_figures.mean_per_s:,.2f}",
        "" if math.isnan(run_figures.burst_ratio) else f"{run_figures.burst_ratio:.2f}",
        f"{run_figures.worst_per_s:,.1f}",
        f"{run_figures.check_ins_a_report:,.1f}",
        f"{run_figures.rounds}",
        f"{100 * run_figures.on_time_ratio:.0f}",
        f"{100 * run_figures.goal_ratio:.0f}",
        f"{run_figures.fill_median_s:.0f}",
        f"{run_figures.round_median_s:.0f}",
    )


if __name__ == "__main__":
    main()
