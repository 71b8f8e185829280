"""The result of a run is one table of figures, compared with the scenario's goals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import ServerUsage
from keyflock_load_tests.scenario import Goal, Scenario

Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class GoalCheck:
    """One goal and its measured figure; None if the run has no such figure."""

    goal: Goal
    measured: float | None

    @property
    def is_met(self) -> bool:
        """Return whether the figure exists and is at most the goal."""
        return self.measured is not None and self.measured <= self.goal.maximum


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """The result of a whole run."""

    scenario: Scenario
    measurements: Measurements
    vitals: tuple[ServerUsage, ...]
    correctness: Correctness
    delta_bytes: int
    seconds: float

    def figures(self) -> Figures:
        """Return the figures by row and column: latency per call, then server, phones and generator."""
        measurements = self.measurements
        table: dict[str, dict[str, float]] = {
            call: asdict(found)
            for call, found in measurements.quantiles(self.scenario.arrivals.duration_s).items()
        }
        table["phones"] = {
            "arrivals": float(len(measurements.lateness_s)),
            "calls": float(len(measurements.samples)),
            "error_share": measurements.error_share(),
            "shed": float(measurements.shed),
        }
        if measurements.lateness_s:
            late_ms = np.asarray(measurements.lateness_s) * 1_000.0
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

    def goal_checks(self) -> tuple[GoalCheck, ...]:
        """Return the scenario's goals with the measured figures."""
        table = self.figures()
        return tuple(
            GoalCheck(goal, table.get(goal.row, {}).get(goal.column)) for goal in self.scenario.goals
        )

    def summary(self) -> dict[str, object]:
        """Return the result as plain values, for one JSON line."""
        measurements = self.measurements
        return {
            "scenario": self.scenario.name,
            "seconds": round(self.seconds, 1),
            "calls_per_s": round(len(measurements.samples) / self.scenario.arrivals.duration_s, 2),
            "correctness": {**asdict(self.correctness), "violations": list(self.correctness.violations())},
            "delta_bytes": self.delta_bytes,
            "figures": {
                row: {column: round(value, 4) for column, value in columns.items()}
                for row, columns in self.figures().items()
            },
            "check_ins": dict(sorted(measurements.check_ins.items())),
            "endings": dict(sorted(measurements.endings.items())),
            "errors": dict(sorted(measurements.errors().items())),
            "goals": [
                {"goal": check.goal.sentence, "measured": check.measured, "met": check.is_met}
                for check in self.goal_checks()
            ],
        }
