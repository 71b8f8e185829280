"""What a load test is: a table of rates, durations, shares and goals.

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

    #: Mean over the whole run.
    mean_rate_per_s: float
    duration_s: float
    #: Peak and trough lie this far from the mean, as a share of it; 0 is a constant rate.
    diurnal_swing_ratio: float = 0.0
    #: How many days pass during the run.
    days: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a plan that cannot be drawn from, or not within bounds."""
        if self.mean_rate_per_s <= 0 or self.duration_s <= 0 or self.days <= 0:
            raise ScenarioError("arrivals: mean_rate_per_s, duration_s and days must be above 0")
        if not 0.0 <= self.diurnal_swing_ratio <= 1.0:
            raise ScenarioError("arrivals.diurnal_swing_ratio must lie in [0, 1]")
        if self.mean_rate_per_s * self.duration_s > MAX_ARRIVALS:
            raise ScenarioError(f"arrivals: more than {MAX_ARRIVALS:,} are expected; lower rate or duration")


@dataclass(frozen=True, slots=True)
class PhonePlan:
    """What a phone does between its check-in and its report."""

    #: Mean of the exponential training time. A phone that trains is idle for the server.
    mean_training_s: float = 1.0
    #: Of the assigned phones, the share that vanishes without a word before its report.
    drop_out_share: float = 0.05
    #: Of the reporting phones, the share whose connection dies after the report was sent and before the
    #: answer came; they send the same bytes again on a new connection.
    lost_connection_share: float = 0.02
    #: How long a phone waits for any one answer.
    answer_timeout_s: float = 30.0
    #: How often a report is sent again after a lost connection, a timeout or a 503.
    max_retries: int = 8
    #: Pause before a retry, unless the server names one.
    retry_pause_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuses shares outside [0, 1] and waits that never end."""
        for name in ("drop_out_share", "lost_connection_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ScenarioError(f"phones.{name} must lie in [0, 1]")
        if self.answer_timeout_s <= 0 or self.retry_pause_s <= 0 or self.mean_training_s < 0:
            raise ScenarioError(
                "phones: answer_timeout_s and retry_pause_s must be above 0, mean_training_s not below"
            )


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The task that the server runs meanwhile."""

    #: Name of a model size: what a delta and a download weigh.
    model_size: str = "small"
    goal: int = 20
    minimum: int = 5
    deadline_s: float = 20.0
    min_flush_clients: int = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure that should be reached. Missing it is reported and does not fail the run."""

    #: Row of the report, for example ``check_in`` or ``generator``.
    of: str
    #: Column of the report, for example ``p99_ms``.
    figure: str
    at_most: float

    @property
    def sentence(self) -> str:
        """The goal as text."""
        return f"{self.of} {self.figure} ≤ {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test."""

    name: str
    #: One line: which question it answers.
    purpose: str
    arrivals: ArrivalPlan
    phones: PhonePlan
    task: TaskPlan
    goals: tuple[Goal, ...]
    #: Enrolled before the clock starts; arrivals walk through them in a shuffled order, again and again.
    fleet_size: int = 500
    seed: int = 1
    #: Visits that may be under way at once; an arrival beyond it is counted as shed and fails no phone.
    max_visits_in_flight: int = 2_000
    #: After the last arrival, how long visits may take to end.
    drain_s: float = 15.0

    def __post_init__(self) -> None:
        """Refuses an empty fleet and an unbounded end."""
        if self.fleet_size < 1 or self.max_visits_in_flight < 1:
            raise ScenarioError("fleet_size and max_visits_in_flight must be at least 1")
        if self.drain_s <= 0:
            raise ScenarioError("drain_s must be above 0")
