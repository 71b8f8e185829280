"""This module compares all arms: recall after the same rounds, its cost in bytes, and what is chance."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from keyflock_client_sim.experiments.compression.options import FLOAT32, arm_name
from keyflock_client_sim.experiments.compression.run import ArmResult, CompressionPoint
from keyflock_compression import CodecSpec
from keyflock_models.arrays import F64
from keyflock_models.evaluation.paired_bootstrap import Comparison, paired_bootstrap_over_runs

Places = Literal[1, 3]
PLACES: Final[tuple[Places, ...]] = (1, 3)
BASELINE: Final = arm_name(FLOAT32)


@dataclass(frozen=True, slots=True, eq=False)
class CompressionCost:
    """The whole comparison."""

    #: The runs by arm, `BASELINE` first; each has runs under the same seeds in the same order.
    runs: Mapping[str, tuple[ArmResult, ...]]
    specs: Mapping[str, CodecSpec]
    parameters: int
    phones: int
    goal: int

    @property
    def rounds(self) -> tuple[int, ...]:
        """Return the rounds after which versions were measured."""
        return tuple(point.round for point in self.runs[BASELINE][0].points)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of each arm's runs."""
        return tuple(run.seed for run in self.runs[BASELINE])

    @property
    def users(self) -> int:
        """Return the number of held-out users."""
        return len(self.runs[BASELINE][0].words)

    @property
    def words(self) -> int:
        """Return the number of their words."""
        return sum(self.runs[BASELINE][0].words)

    def recall(self, arm: str, places: Places) -> F64:
        """Return recall of the last version, by run and user; shape (runs, users)."""
        return np.array([_of_users(run, run.points[-1], places) for run in self.runs[arm]])

    def curve(self, arm: str, places: Places) -> F64:
        """Return the user mean of every measured version, by run; shape (runs, versions)."""
        return np.array(
            [[_of_users(run, point, places).mean() for point in run.points] for run in self.runs[arm]]
        )

    def sent_bytes(self, arm: str) -> F64:
        """Return the bytes sent up to each measured version, mean over runs; shape (versions,)."""
        sent = np.array([[point.sent_bytes for point in run.points] for run in self.runs[arm]], np.float64)
        return np.asarray(sent.mean(axis=0))

    def loss(self, arm: str, places: Places) -> Comparison:
        """Return recall of the last version minus the baseline's; 95 % interval over users and runs."""
        return paired_bootstrap_over_runs(self.recall(arm, places), self.recall(BASELINE, places), seed=0)

    def bytes_per_report(self, arm: str) -> float:
        """Return the mean size over all reports."""
        runs = self.runs[arm]
        return sum(run.points[-1].sent_bytes for run in runs) / sum(run.reports for run in runs)

    def bits_per_parameter(self, arm: str) -> float:
        """Return the mean size over all reports in bits a parameter."""
        return 8.0 * self.bytes_per_report(arm) / self.parameters

    def refused(self, arm: str) -> int:
        """Return the number of reports whose norm was exceeded, in all runs."""
        return sum(run.refused for run in self.runs[arm])

    def summary(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        arms: dict[str, object] = {}
        for arm in self.runs:
            figures: dict[str, object] = {
                "codec": self.specs[arm].to_wire(),
                "bytes_per_report": self.bytes_per_report(arm),
                "bits_per_parameter": self.bits_per_parameter(arm),
                "refused": self.refused(arm),
                "sent_bytes": self.sent_bytes(arm).tolist(),
            }
            for places in PLACES:
                figures[f"recall_at_{places}"] = float(self.recall(arm, places).mean())
                figures[f"curves_at_{places}"] = self.curve(arm, places).tolist()
                if arm != BASELINE:
                    figures[f"difference_at_{places}"] = asdict(self.loss(arm, places))
            arms[arm] = figures
        return {
            "parameters": self.parameters,
            "phones": self.phones,
            "users": self.users,
            "words": self.words,
            "goal": self.goal,
            "rounds": list(self.rounds),
            "seeds": list(self.seeds),
            "arms": arms,
        }


def format_difference(found: Comparison) -> str:
    """Format a difference in points with its interval."""
    return f"{100 * found.difference:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def print_cost(found: CompressionCost, console: Console, *, title: str) -> None:
    """Print a row an arm."""
    table = Table(title=f"{title}: after {found.rounds[-1]} rounds, user means over {len(found.seeds)} runs")
    table.add_column("arm")
    for column in ("recall@1 %", "points", "recall@3 %", "points", "KB a report", "bits a parameter"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm in found.runs:
        cells: list[str] = []
        for places in PLACES:
            cells.append(f"{100 * found.recall(arm, places).mean():.2f}")
            cells.append("" if arm == BASELINE else format_difference(found.loss(arm, places)))
        cells.append(f"{found.bytes_per_report(arm) / 1e3:.1f}")
        cells.append(f"{found.bits_per_parameter(arm):.3f}")
        table.add_row(arm, *cells)
    console.print(table)
    start = ", ".join(
        f"recall@{places} {100 * found.curve(BASELINE, places)[0, 0]:.2f} %" for places in PLACES
    )
    console.print(
        f"{found.users} held-out users, {found.words:,} words; version 0 has {start}. Points: against "
        f"{BASELINE}, with 95 % intervals over users and runs.",
        soft_wrap=True,
    )


def _of_users(run: ArmResult, point: CompressionPoint, places: Places) -> F64:
    hits = point.hits_at_1 if places == 1 else point.hits_at_3
    return np.array(hits, np.float64) / np.array(run.words, np.float64)
