"""The result of a run: plain values from which the JSON, the tables and the page are made.

It is the same for every scenario, whoever made the load, so two runs can be compared by their JSON.
"""

from typing import Final

import msgspec

from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.observation import ServerUsage
from keyflock_load_tests.scenario import Goal

#: Changes when a field gets another meaning.
FORMAT: Final = 1


class CallFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The latencies and the outcomes of one kind of call. Latency counts from the instant it was due."""

    #: Calls with an answer, and those whose answer was waited for in vain: they have a latency.
    count: int
    #: Good answers a second, within the time in which load was offered.
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    #: The whole distribution: (quantile, milliseconds), denser towards 1.
    curve: list[tuple[float, float]]
    #: The number of calls by outcome: ``ok``, a problem's code, ``lost``, ``timeout``.
    outcomes: dict[str, int]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of call over time: how many ended, and the latency of those that were due then."""

    #: The middle of each interval, in seconds since the start.
    at_s: list[float]
    ended_per_s: list[float]
    p50_ms: list[float | None]
    p99_ms: list[float | None]


class Mark(msgspec.Struct, frozen=True):
    """Something that happened in the run."""

    at_s: float
    text: str


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine can do at most of one thing, measured in the same run, and how much was used."""

    name: str
    per_s: float
    #: The rate that the server reached of what the ceiling is about; None where that was not asked.
    reached_per_s: float | None = None

    @property
    def reached_ratio(self) -> float | None:
        """Return the share of the ceiling that was reached."""
        return None if self.reached_per_s is None or not self.per_s else self.reached_per_s / self.per_s


class GoalResult(msgspec.Struct, frozen=True, kw_only=True):
    """One goal and its measured figure; None if the run has no such figure."""

    goal: str
    measured: float | None
    is_met: bool


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a whole run."""

    format: int = FORMAT
    scenario: str
    purpose: str
    #: How the scenario was run: rates, times, numbers, as text.
    parameters: dict[str, str]
    machine: str
    began_at: str
    #: How long load was offered, and how long all took.
    duration_s: float
    seconds: float
    correctness: Correctness
    violations: tuple[str, ...]
    #: All single figures, by row and column; goals name them.
    figures: dict[str, dict[str, float]]
    goals: list[GoalResult]
    calls: dict[str, CallFigures]
    timelines: dict[str, Timeline]
    check_ins: dict[str, int]
    endings: dict[str, int]
    #: Unexpected outcomes by call and cause.
    errors: dict[str, int]
    #: Each server over time.
    servers: list[list[ServerUsage]]
    #: Committed micro-batches by the largest number of reports in them; None is beyond the last.
    flushes: list[tuple[float | None, int]]
    ceilings: list[Ceiling]
    marks: list[Mark]


def check_goals(goals: tuple[Goal, ...], figures: dict[str, dict[str, float]]) -> list[GoalResult]:
    """Hold the goals against the figures."""
    measured = [figures.get(goal.row, {}).get(goal.column) for goal in goals]
    return [
        GoalResult(goal=goal.sentence, measured=value, is_met=goal.is_met_by(value))
        for goal, value in zip(goals, measured, strict=True)
    ]
