"""This module reports what each mode took to reach the same recall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Final

from rich.console import Console
from rich.table import Table

from keyflock_client_sim.experiments.modes.options import ASYNC, MODES, SYNC
from keyflock_client_sim.experiments.modes.run import ModeResult, ModesPoint

#: The targets, as shares of the gain that all runs make.
SHARES: Final = (0.5, 0.75, 0.9)
#: The costs of reaching a target, by the name of the figure.
EFFORTS: Final[dict[str, Callable[[ModesPoint], float]]] = {
    "hours": lambda point: point.at_h,
    "reports": lambda point: point.reports,
    "trainings": lambda point: point.trainings,
    "MB up": lambda point: point.uploaded_bytes / 1e6,
}


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean over the fleets, the minimum and the maximum."""

    mean: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one value a fleet."""
        return cls(mean(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class ModesComparison:
    """The comparison: as many runs of each mode, over the same fleets in the same order."""

    runs: dict[str, tuple[ModeResult, ...]]
    #: Mean recall@3 over time at each rate that was tried, by mode, on the fleet of the trials.
    trials: dict[str, dict[float, float]]

    @property
    def start(self) -> float:
        """Return recall@3 of version 0."""
        return self.runs[SYNC][0].points[0].recall_at_3

    @property
    def reached_by_all(self) -> float:
        """Return the recall@3 that every run has at its end."""
        return min(run.end_recall for runs in self.runs.values() for run in runs)

    def target(self, share: float) -> float:
        """Return the recall@3 at this share of the gain that every run makes."""
        return self.start + share * (self.reached_by_all - self.start)

    def effort(self, mode: str, figure: str, share: float) -> list[float]:
        """Return what each fleet took to reach the target, in the order of the fleets."""
        target = self.target(share)
        return [effort_to_reach(run.points, target, EFFORTS[figure]) for run in self.runs[mode]]

    def ratio(self, figure: str, share: float) -> Spread:
        """Return the ratio of async to sync, fleet by fleet."""
        pairs = zip(self.effort(ASYNC, figure, share), self.effort(SYNC, figure, share), strict=True)
        return Spread.of([first / second for first, second in pairs])

    def summary(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "start": self.start,
            "fleets": len(self.runs[SYNC]),
            "rates": {mode: self.runs[mode][0].rate for mode in MODES},
            "trials": {mode: {str(rate): one for rate, one in self.trials[mode].items()} for mode in MODES},
            "end_recall_at_3": {mode: [run.end_recall for run in self.runs[mode]] for mode in MODES},
            "curves": {mode: [curve(run) for run in self.runs[mode]] for mode in MODES},
            "targets": [
                {
                    "share": share,
                    "recall_at_3": self.target(share),
                    **{mode: {name: self.effort(mode, name, share) for name in EFFORTS} for mode in MODES},
                }
                for share in SHARES
            ],
        }


def effort_to_reach(
    points: Sequence[ModesPoint], target: float, effort: Callable[[ModesPoint], float]
) -> float:
    """Return the effort at which a curve first reaches the target, interpolated between two points.

    Raises:
        ValueError: it never does.
    """
    for before, after in pairwise(points):
        if after.recall_at_3 >= target:
            gain = after.recall_at_3 - before.recall_at_3
            part = (target - before.recall_at_3) / gain if gain > 0 else 0.0
            low, high = effort(before), effort(after)
            return low + max(part, 0.0) * (high - low)
    raise ValueError(f"the run never reached {target}")


def curve(run: ModeResult) -> list[tuple[float, float]]:
    """Return hours and recall@3."""
    return [(point.at_h, point.recall_at_3) for point in run.points]


def print_modes(found: ModesComparison, console: Console, *, title: str) -> None:
    """Print what each mode took, and which wins by how much."""
    table = Table(title=f"{title}: mean over {len(found.runs[SYNC])} fleets [least, most]")
    table.add_column("recall@3 %")
    table.add_column("mode")
    for name in EFFORTS:
        table.add_column(name, justify="right", no_wrap=True)
    for share in SHARES:
        for mode in MODES:
            cells = (format_spread(Spread.of(found.effort(mode, name, share))) for name in EFFORTS)
            table.add_row(f"{100 * found.target(share):.2f}", mode, *cells)
        ratios = (format_spread(found.ratio(name, share), 2) for name in EFFORTS)
        table.add_row("", "async / sync", *ratios, style="bold")
        table.add_section()
    console.print(table)
    console.print(verdict(found), soft_wrap=True)


def verdict(found: ModesComparison) -> str:
    """Say in a sentence which mode needs less time and which fewer reports for nine tenths of the gain."""
    time, reports = found.ratio("hours", SHARES[-1]), found.ratio("reports", SHARES[-1])
    return (
        f"To {100 * found.target(SHARES[-1]):.2f} % recall@3, async takes {format_spread(time, 2)} times the "
        f"time and {format_spread(reports, 2)} times the reports of sync: {_winner(time)} wins on time, "
        f"{_winner(reports)} on reports."
    )


def _winner(ratio: Spread) -> str:
    if ratio.maximum < 1.0:
        return ASYNC
    return SYNC if ratio.minimum > 1.0 else "neither"


def format_spread(spread: Spread, digits: int | None = None) -> str:
    """Format a spread; large numbers have no decimals."""
    places = digits if digits is not None else (0 if spread.mean >= 100 else 2)
    return f"{spread.mean:,.{places}f} [{spread.minimum:,.{places}f}, {spread.maximum:,.{places}f}]"
