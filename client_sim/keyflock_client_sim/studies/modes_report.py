"""Both modes side by side: what it took each to be as good as the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Final

from rich.console import Console
from rich.table import Table

from keyflock_client_sim.studies.modes_options import ASYNC, MODES, SYNC
from keyflock_client_sim.studies.modes_run import ModeRun, Point

#: Shares of the gain that all runs make: what is asked is how soon each is there.
SHARES: Final = (0.5, 0.75, 0.9)
#: What getting there took, by the name of the figure.
EFFORTS: Final[dict[str, Callable[[Point], float]]] = {
    "hours": lambda point: point.at_h,
    "reports": lambda point: point.reports,
    "trainings": lambda point: point.trainings,
    "MB up": lambda point: point.uploaded_bytes / 1e6,
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over the fleets, and the least and the most."""

    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a fleet."""
        return cls(mean(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Modes:
    """The comparison: as many runs of each mode, over the same fleets in the same order."""

    runs: dict[str, tuple[ModeRun, ...]]
    #: By mode: mean recall@3 over time at each rate that was tried, on the fleet of the trials.
    trials: dict[str, dict[float, float]]

    @property
    def start(self) -> float:
        """Recall@3 of version 0."""
        return self.runs[SYNC][0].points[0].recall_at_3

    @property
    def reached_by_all(self) -> float:
        """Recall@3 that every run has at its end."""
        return min(run.end_recall for runs in self.runs.values() for run in runs)

    def target(self, share: float) -> float:
        """Recall@3 at this share of the gain that every run makes."""
        return self.start + share * (self.reached_by_all - self.start)

    def effort(self, mode: str, figure: str, share: float) -> list[float]:
        """What each fleet took to reach the target, in the order of the fleets."""
        target = self.target(share)
        return [reached(run.points, target, EFFORTS[figure]) for run in self.runs[mode]]

    def ratio(self, figure: str, share: float) -> Spread:
        """What async took of what sync took, fleet by fleet."""
        pairs = zip(self.effort(ASYNC, figure, share), self.effort(SYNC, figure, share), strict=True)
        return Spread.of([first / second for first, second in pairs])

    def summary(self) -> dict[str, object]:
        """What ``--json`` prints."""
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


def reached(points: Sequence[Point], target: float, effort: Callable[[Point], float]) -> float:
    """The effort at which a curve first is as high as the target, between two points by proportion.

    Raises:
        ValueError: it never is.
    """
    for before, after in pairwise(points):
        if after.recall_at_3 >= target:
            gain = after.recall_at_3 - before.recall_at_3
            part = (target - before.recall_at_3) / gain if gain > 0 else 0.0
            low, high = effort(before), effort(after)
            return low + max(part, 0.0) * (high - low)
    raise ValueError(f"the run never reached {target}")


def curve(run: ModeRun) -> list[tuple[float, float]]:
    """Hours and recall@3."""
    return [(point.at_h, point.recall_at_3) for point in run.points]


def print_modes(found: Modes, console: Console, *, title: str) -> None:
    """Prints what each mode took, and who wins by how much."""
    table = Table(title=f"{title}: mean over {len(found.runs[SYNC])} fleets [least, most]")
    table.add_column("recall@3 %")
    table.add_column("mode")
    for name in EFFORTS:
        table.add_column(name, justify="right", no_wrap=True)
    for share in SHARES:
        for mode in MODES:
            cells = (said(Spread.of(found.effort(mode, name, share))) for name in EFFORTS)
            table.add_row(f"{100 * found.target(share):.2f}", mode, *cells)
        ratios = (said(found.ratio(name, share), 2) for name in EFFORTS)
        table.add_row("", "async / sync", *ratios, style="bold")
        table.add_section()
    console.print(table)
    console.print(verdict(found), soft_wrap=True)


def verdict(found: Modes) -> str:
    """Who needs less time and who less reports for nine tenths of the gain, in a sentence."""
    time, reports = found.ratio("hours", SHARES[-1]), found.ratio("reports", SHARES[-1])
    return (
        f"To {100 * found.target(SHARES[-1]):.2f} % recall@3, async takes {said(time, 2)} times the time and "
        f"{said(reports, 2)} times the reports of sync: {_winner(time)} wins on time, {_winner(reports)} on "
        "reports."
    )


def _winner(ratio: Spread) -> str:
    if ratio.most < 1.0:
        return ASYNC
    return SYNC if ratio.least > 1.0 else "neither"


def said(spread: Spread, digits: int | None = None) -> str:
    """A spread as text; large numbers without decimals."""
    places = digits if digits is not None else (0 if spread.mean >= 100 else 2)
    return f"{spread.mean:,.{places}f} [{spread.least:,.{places}f}, {spread.most:,.{places}f}]"
