"""A scenario describes a load test by rates, durations, shares, events and goals.

A scenario only says what happens; how it is run is ``harness``. Everything in it is bounded, so that a run
ends by itself: arrivals by rate and duration, visits in flight by a cap, the end by a drain time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

MAX_ARRIVALS: Final = 200_000


class ScenarioError(ValueError):
    """A scenario contradicts itself; the message names the field."""


@dataclass(frozen=True, slots=True)
class ArrivalPlan:
    """When phones check in: a Poisson process whose rate follows a day squeezed into the run."""

    #: The mean over the whole run; 0: no phone visits, and a stream alone makes the load.
    mean_rate_per_s: float
    duration_s: float
    #: Peak and trough lie this far from the mean, as a share of it; 0 is a constant rate.
    diurnal_swing_ratio: float = 0.0
    #: How many days pass during the run.
    days: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be drawn from, or not within bounds."""
        if self.mean_rate_per_s < 0 or self.duration_s <= 0 or self.days <= 0:
            raise ScenarioError("arrivals: duration_s and days must be above 0, mean_rate_per_s not below")
        if not 0.0 <= self.diurnal_swing_ratio <= 1.0:
            raise ScenarioError("arrivals.diurnal_swing_ratio must lie in [0, 1]")
        if self.mean_rate_per_s * self.duration_s > MAX_ARRIVALS:
            raise ScenarioError(f"arrivals: more than {MAX_ARRIVALS:,} are expected; lower rate or duration")


@dataclass(frozen=True, slots=True)
class PhonePlan:
    """The behaviour of phones between check-in and report, and how many of them misbehave."""

    #: The mean of the exponential training time. A phone that trains is idle for the server.
    mean_training_s: float = 1.0
    #: The share of assigned phones that drop out silently before their report.
    drop_out_share: float = 0.05
    #: The share of assigned phones that say that no report will come.
    failure_share: float = 0.0
    #: The share of reporting phones whose connection dies after the report was sent and before the
    #: answer came; they send the same bytes again on a new connection.
    lost_connection_share: float = 0.02
    #: How long a phone waits for any one answer.
    answer_timeout_s: float = 30.0
    #: How often a call is sent again after a lost connection, a timeout or a 503.
    max_retries: int = 8
    #: Pause before a retry, unless the server names one.
    retry_pause_s: float = 0.5
    #: The share of the fleet that is bad: it sends garbage, wrong tokens, replays and so on.
    hostile_share: float = 0.0
    #: How long a bad phone keeps a half-open connection.
    hostile_hold_s: float = 5.0
    #: The share of visits that begin with a new enrolment, or with a new token; and that end with the
    #: device's wish to be forgotten.
    enrol_share: float = 0.0
    refresh_share: float = 0.0
    forget_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and waits that never end."""
        for name in (
            *("drop_out_share", "failure_share", "lost_connection_share", "hostile_share"),
            *("enrol_share", "refresh_share", "forget_share"),
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ScenarioError(f"phones.{name} must lie in [0, 1]")
        if min(self.answer_timeout_s, self.retry_pause_s, self.hostile_hold_s) <= 0:
            raise ScenarioError("phones: answer_timeout_s, retry_pause_s, hostile_hold_s must be above 0")
        if self.mean_training_s < 0:
            raise ScenarioError("phones.mean_training_s must not be below 0")


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Check-ins, and reports of those that get work, of the whole fleet from generators' processes."""

    #: Check-ins a second; None: as many as the server takes.
    per_s: float | None = None
    #: Whether phones that get work report, or leave it at the check-in.
    has_reports: bool = True
    #: All devices come at the same instant, once.
    all_at_once: bool = False
    #: Closed loop: phones at once. Open loop: connections at most, opened on demand.
    connections: int = 64
    #: How long answers are waited for after the end.
    drain_s: float = 15.0

    def __post_init__(self) -> None:
        """Refuse a stream that offers nothing."""
        if (self.per_s is not None and self.per_s <= 0) or self.connections < 1 or self.drain_s <= 0:
            raise ScenarioError("stream: per_s, connections and drain_s must be above 0")

    def describe(self) -> str:
        """Return what comes, in words."""
        calls = "check-ins and reports" if self.has_reports else "check-ins"
        if self.per_s is not None:
            return f"{self.per_s:,g} {calls} a second"
        return f"{calls} of {self.connections:,} phones at once, as fast as they are answered"


@dataclass(frozen=True, slots=True)
class SlowPhones:
    """Phones whose uploads trickle. They come late in the run, so that the others' times before are known."""

    #: The share of the fleet.
    share: float
    upload_bytes_per_s: float = 5_000.0
    #: The part of the run after which they are slow; before it they are like all others.
    from_ratio: float = 0.4

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and uploads that never end."""
        if not (0.0 <= self.share <= 1.0 and 0.0 <= self.from_ratio <= 1.0):
            raise ScenarioError("slow_phones: share and from_ratio must lie in [0, 1]")
        if self.upload_bytes_per_s <= 0:
            raise ScenarioError("slow_phones.upload_bytes_per_s must be above 0")


@dataclass(frozen=True, slots=True)
class CallsBeside:
    """Calls that have nothing to do with rounds, each a Poisson process of its own."""

    #: What keyboards ask for: suggestions; the release with its vocabulary and its weights; stored heads.
    suggestions_per_s: float = 0.0
    releases_per_s: float = 0.0
    heads_per_s: float = 0.0
    #: What a dashboard reads: tasks, rounds, devices, populations.
    operator_reads_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outage:
    """The server is killed as by a power cut, and comes back at the same address."""

    #: The part of the run after which it is killed.
    at_ratio: float
    #: How long nothing is there, before the new process starts.
    down_s: float
    #: Whether the whole fleet checks in at the instant at which the server is back.
    is_followed_by_all: bool = False

    def __post_init__(self) -> None:
        """Refuse an outage outside the run."""
        if not 0.0 < self.at_ratio < 1.0 or self.down_s < 0:
            raise ScenarioError("outage: at_ratio must lie in (0, 1), down_s must not be below 0")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The task that the server runs."""

    #: The name of a model size: it decides the size of deltas and downloads.
    model_size: str = "small"
    goal: int = 20
    minimum: int = 5
    #: How many more devices than the goal get work, as a share of it.
    over_selection: float = 0.3
    deadline_s: float = 20.0
    min_flush_clients: int = 4


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The servers that the load meets."""

    #: More than one: replicas over one PostgreSQL; else a server over SQLite.
    replicas: int = 1
    #: Settings other than the defaults, as environment variables.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Whether it answers suggestions and stores heads.
    has_suggestions: bool = False
    #: A server whose memory grows beyond this is broken, whatever the load.
    max_rss_mib: float = 2_048.0

    def __post_init__(self) -> None:
        """Refuse a plan without a server."""
        if self.replicas < 1:
            raise ScenarioError("server.replicas must be at least 1")


@dataclass(frozen=True, slots=True)
class Goal:
    """A target for one figure. Missing it is reported and does not fail the run."""

    #: The row of the report, for example ``check_in`` or ``generator``.
    row: str
    #: The column of the report, for example ``p99_ms``.
    column: str
    #: The bound: the largest value that is good enough, or the smallest.
    bound: float
    is_minimum: bool = False

    @property
    def sentence(self) -> str:
        """Return the goal as text."""
        return f"{self.row} {self.column} {'≥' if self.is_minimum else '≤'} {self.bound:g}"

    def is_met_by(self, measured: float | None) -> bool:
        """Return whether a measured figure is good enough; one that is missing never is."""
        if measured is None:
            return False
        return measured >= self.bound if self.is_minimum else measured <= self.bound


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
    #: What comes beside the visits, or in their place.
    stream: StreamPlan | None = None
    slow_phones: SlowPhones | None = None
    beside: CallsBeside = CallsBeside()
    outage: Outage | None = None
    server: ServerPlan = ServerPlan()
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

    def scaled(
        self, *, rate_per_s: float | None = None, duration_s: float | None = None, devices: int | None = None
    ) -> Self:
        """Return the same scenario at another rate, for another time, with another number of devices.

        The rate is that of the visits, and a stream beside them that has a rate keeps its proportion to it;
        where no phone visits, it is that of the stream.


        Raises:
            ScenarioError: the result is out of bounds.
        """
        arrivals, stream = self.arrivals, self.stream
        if duration_s is not None:
            arrivals = replace(arrivals, duration_s=duration_s)
        if rate_per_s is not None and stream is not None and not arrivals.mean_rate_per_s:
            stream = replace(stream, per_s=rate_per_s)
        elif rate_per_s is not None:
            if stream is not None and stream.per_s is not None:
                stream = replace(stream, per_s=stream.per_s * rate_per_s / arrivals.mean_rate_per_s)
            arrivals = replace(arrivals, mean_rate_per_s=rate_per_s)
        fleet_size = self.fleet_size if devices is None else devices
        return replace(self, arrivals=arrivals, stream=stream, fleet_size=fleet_size)

    def parameters(self) -> dict[str, str]:
        """Return what the report says of how the scenario is run."""
        arrivals, phones = self.arrivals, self.phones
        found = {
            "duration": f"{arrivals.duration_s:g} s",
            **({"visits": f"{arrivals.mean_rate_per_s:g}/s"} if arrivals.mean_rate_per_s else {}),
            **({"stream": self.stream.describe()} if self.stream else {}),
            "devices": f"{self.fleet_size:,}",
            "model": self.task.model_size,
            "round": f"goal {self.task.goal}, deadline {self.task.deadline_s:g} s",
            "servers": f"{self.server.replicas} over PostgreSQL",
        }
        if self.server.replicas == 1:
            found["servers"] = "1 over SQLite"
        if arrivals.diurnal_swing_ratio:
            found["peak"] = f"{1.0 + arrivals.diurnal_swing_ratio:.0%} of the mean, {arrivals.days:g} days"
        if phones.hostile_share:
            found["bad phones"] = f"{phones.hostile_share:.0%}"
        if self.slow_phones is not None:
            slow = self.slow_phones
            found["slow phones"] = f"{slow.share:.0%} at {slow.upload_bytes_per_s:g} B/s"
        if self.outage is not None:
            found["outage"] = f"killed after {self.outage.at_ratio:.0%}, down for {self.outage.down_s:g} s"
        for name, share in (
            ("enrol anew", phones.enrol_share),
            ("refresh their token", phones.refresh_share),
            ("are forgotten", phones.forget_share),
        ):
            if share:
                found[name] = f"{share:.0%} of visits"
        return found
