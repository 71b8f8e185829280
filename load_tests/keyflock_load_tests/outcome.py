"""A run's figures as one table of rows and columns, and the goals held against it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import Vitals
from keyflock_load_tests.scenario import Goal, Scenario

Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and what was measured; None if the run has no such figure."""

    goal: Goal
    measured: float | None

    @property
    def is_met(self) -> bool:
        """Whether the figure exists and is at most the goal."""
        return self.measured is not None and self.measured <= self.goal.at_most


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a run found out."""

    scenario: Scenario
    measurements: Measurements
    vitals: tuple[Vitals, ...]
    correctness: Correctness
    delta_bytes: int
    seconds: float

    def figures(self) -> Figures:
        """Row, column, value: latency per call, then server, phones and generator."""
        notes = self.measurements
        table: dict[str, dict[str, float]] = {
            call: asdict(found) for call, found in notes.quantiles(self.scenario.arrivals.duration_s).items()
        }
        table["phones"] = {
            "arrivals": float(len(notes.lateness_s)),
            "calls": float(len(notes.samples)),
            "error_share": notes.error_share(),
            "shed": float(notes.shed),
        }
        if notes.lateness_s:
            late_ms = np.asarray(notes.lateness_s) * 1_000.0
            table["generator"] = {
                "lateness_p99_ms": float(np.quantile(late_ms, 0.99, method="inverted_cdf")),
                "lateness_max_ms": float(late_ms.max()),
            }
        if self.vitals:
            table["server"] = {
                "peak_rss_mib": max(sample.rss_mib for sample in self.vitals),
                "last_rss_mib": self.vitals[-1].rss_mib,
                "mean_cpu_ratio": float(np.mean([sample.cpu_ratio for sample in self.vitals])),
                "peak_cpu_ratio": max(sample.cpu_ratio for sample in self.vitals),
            }
        return table

    def verdicts(self) -> tuple[Verdict, ...]:
        """The scenario's goals with what was measured."""
        table = self.figures()
        return tuple(Verdict(goal, table.get(goal.of, {}).get(goal.figure)) for goal in self.scenario.goals)

    def summary(self) -> dict[str, object]:
        """All of it as plain values, for one JSON line."""
        notes = self.measurements
        return {
            "scenario": self.scenario.name,
            "seconds": round(self.seconds, 1),
            "calls_per_s": round(len(notes.samples) / self.scenario.arrivals.duration_s, 2),
            "correctness": {**asdict(self.correctness), "violations": list(self.correctness.violations())},
            "delta_bytes": self.delta_bytes,
            "figures": {
                row: {column: round(value, 4) for column, value in columns.items()}
                for row, columns in self.figures().items()
            },
            "check_ins": dict(sorted(notes.check_ins.items())),
            "endings": dict(sorted(notes.endings.items())),
            "errors": dict(sorted(notes.errors().items())),
            "goals": [
                {"goal": verdict.goal.sentence, "measured": verdict.measured, "met": verdict.is_met}
                for verdict in self.verdicts()
            ],
        }
