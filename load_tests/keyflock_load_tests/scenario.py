"""A scenario describes a load test by rates, durations, shares and goals.

A scenario only says what happens; how it is run is ``harness``. Everything in it is bounded, so that a run
ends by itself: arrivals by rate and duration, visits in flight by a cap, the end by a drain time.
"""

from dataclasses import dataclass
from typing import Final

MAX_ARRIVALS: Final = 200_000


class ScenarioError(ValueError):
    """A scenario contradicts itself; the message names the field."""


@dataclass(frozen=True, slots=True)
class ArrivalPlan:
    """When phones check in: a Poisson process whose rate follows a day squeezed into the run."""

    #: The mean over the whole run.
    mean_rate_per_s: float
    duration_s: float
    #: Peak and trough lie this far from the mean, as a share of it; 0 is a constant rate.
    diurnal_swing_ratio: float = 0.0
    #: How many days pass during the run.
    days: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be drawn from, or not within bounds."""
        if self.mean_rate_per_s <= 0 or self.duration_s <= 0 or self.days <= 0:
            raise ScenarioError("arrivals: mean_rate_per_s, duration_s and days must be above 0")
        if not 0.0 <= self.diurnal_swing_ratio <= 1.0:
            raise ScenarioError("arrivals.diurnal_swing_ratio must lie in [0, 1]")
        if self.mean_rate_per_s * self.duration_s > MAX_ARRIVALS:
            raise ScenarioError(f"arrivals: more than {MAX_ARRIVALS:,} are expected; lower rate or duration")


@dataclass(frozen=True, slots=True)
class PhonePlan:
    """The behaviour of phones between check-in and report."""

    #: The mean of the exponential training time. A phone that trains is idle for the server.
    mean_training_s: float = 1.0
    #: The share of assigned phones that drop out silently before their report.
    drop_out_share: float = 0.05
    #: The share of reporting phones whose connection dies after the report was sent and before the
    #: answer came; they send the same bytes again on a new connection.
    lost_connection_share: float = 0.02
    #: How long a phone waits for any one answer.
    answer_timeout_s: float = 30.0
    #: How often a report is sent again after a lost connection, a timeout or a 503.
    max_retries: int = 8
    #: Pause before a retry, unless the server names one.
    retry_pause_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and waits that never end."""
        for name in ("drop_out_share", "lost_connection_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ScenarioError(f"phones.{name} must lie in [0, 1]")
        if self.answer_timeout_s <= 0 or self.retry_pause_s <= 0 or self.mean_training_s < 0:
            raise ScenarioError(
                "phones: answer_timeout_s and retry_pause_s must be above 0, mean_training_s not below"
            )


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The task that the server runs."""

    #: The name of a model size: it decides the size of deltas and downloads.
    model_size: str = "small"
    goal: int = 20
    minimum: int = 5
    deadline_s: float = 20.0
    min_flush_clients: int = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """A target for one figure. Missing it is reported and does not fail the run."""

    #: The row of the report, for example ``check_in`` or ``generator``.
    row: str
    #: The column of the report, for example ``p99_ms``.
    column: str
    maximum: float

    @property
    def sentence(self) -> str:
        """Return the goal as text."""
        return f"{self.row} {self.column} ≤ {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test."""

    name: str
    #: The question that the scenario answers, in one line.
    purpose: str
    arrivals: ArrivalPlan
    phones: PhonePlan
    task: TaskPlan
    goals: tuple[Goal, ...]
    #: The number of phones enrolled before the clock starts; arrivals go through them in a shuffled order.
    fleet_size: int = 500
    seed: int = 1
    #: The maximum number of visits at once; an arrival beyond it is counted as shed and fails no phone.
    max_visits_in_flight: int = 2_000
    #: How long visits may take to end after the last arrival.
    drain_s: float = 15.0

    def __post_init__(self) -> None:
        """Refuse an empty fleet and an unbounded end."""
        if self.fleet_size < 1 or self.max_visits_in_flight < 1:
            raise ScenarioError("fleet_size and max_visits_in_flight must be at least 1")
        if self.drain_s <= 0:
            raise ScenarioError("drain_s must be above 0")
