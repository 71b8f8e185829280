"""Phones that obey return windows, and rounds that they fill: three days in virtual time.

Time goes in steps of 20 s. Phones are idle for about seven hours a night; the server's side is its own pure
functions (``rounds.pacing``, ``rounds.selection``, ``rounds.availability``, ``rounds.tuning``), fed as the
coordinator feeds them.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds import pacing
from keyflock_server.rounds.availability import (
    HOUR_S,
    UNIFORM_HOURS,
    ArrivalCount,
    arrivals_per_s,
    hour_of,
    hours_of_day,
)
from keyflock_server.rounds.selection import (
    hash_ratio,
    meeting_probability,
    meeting_window_s,
    round_id,
    sampling_probability,
)
from keyflock_server.rounds.task import Pacing, RoundPolicy
from keyflock_server.rounds.tuning import MAX_ROUNDS, RoundHistory, typical_duration_s, usual_cycle_s

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S: Final = 86_400.0
STEP_S: Final = 20.0
DAYS: Final = 3
#: Virtual time begins at two in the night, with an update of the app that enrols everyone.
START_S: Final = 2 * 3_600.0
ROLL_OUT_S: Final = 120.0
#: The return window of a server without pace steering: ten minutes, always.
FIXED_RETRY_S: Final = 600.0
KEY: Final = b"arrivals" * 4
TASK: Final = TaskName("arrivals")
BOUNDS: Final = Pacing(min_s=60.0, max_s=86_400.0)
DROP_OUT_SHARE: Final = 0.08


@dataclass(frozen=True, slots=True)
class ArrivalScenario:
    """The population and the task of one run."""

    phones: int
    goal: int
    is_paced: bool

    @property
    def policy(self) -> RoundPolicy:
        """The task's rounds."""
        return RoundPolicy(goal=self.goal, deadline_s=600.0)


class SimulatedPhones:
    """When each phone is idle, and when it checks in next."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._idle_from_s = rng.normal(23.0, 1.5, count) % 24.0 * HOUR_S
        self._idle_for_s = np.clip(rng.normal(7.0, 1.5, count), 1.0, 24.0) * HOUR_S
        everyone = np.arange(count)
        self.next_at = self.idle_at(everyone, START_S + rng.uniform(0.0, ROLL_OUT_S, count))
        self.last_seen_at = np.full(count, -np.inf)
        self.is_enrolled = np.zeros(count, np.bool_)

    def idle_at(self, who: Ints, at: Floats) -> Floats:
        """Return the first instant from ``at`` on at which each phone is idle and charging."""
        since_s = (at - self._idle_from_s[who]) % DAY_S
        return np.where(since_s < self._idle_for_s[who], at, at + DAY_S - since_s)

    def idle_share(self, at_s: float) -> float:
        """Return the share of all phones that are idle."""
        return float(np.mean((at_s - self._idle_from_s) % DAY_S < self._idle_for_s))


@dataclass(slots=True)
class SimulatedRound:
    """A round that takes phones or waits for their reports."""

    sequence: int
    opened_at: float
    expected: float
    assigned: int = 0
    filled_after_s: float | None = None
    reports_at: list[float] = field(default_factory=list)


@dataclass(slots=True)
class ArrivalRecord:
    """What happened in a run."""

    scenario: ArrivalScenario
    #: Number of check-ins in each step.
    arrivals: Ints
    #: For each round: when it opened, seconds to fill (None: never) and to end, whether its goal was met.
    rounds: list[tuple[float, float | None, float, bool]] = field(default_factory=list)
    #: Share of phones that were idle, by step.
    idle_share: Floats = field(default_factory=lambda: np.zeros(0))


class ArrivalSimulation:
    """The simulation of one scenario."""

    def __init__(self, scenario: ArrivalScenario, seed: int) -> None:
        self._scenario, self._policy = scenario, scenario.policy
        self._rng = np.random.default_rng(seed)
        self._phones = SimulatedPhones(scenario.phones, self._rng)
        steps = int(DAYS * DAY_S / STEP_S)
        self.record = ArrivalRecord(scenario, np.zeros(steps, np.int64), idle_share=np.zeros(steps))
        self._active, self._present = 0.0, 0.0
        self._hours: tuple[float, ...] = UNIFORM_HOURS
        self._per_s: float | None = None
        self._by_hour: dict[int, int] = {}
        self._history = RoundHistory()
        self._open = SimulatedRound(1, START_S, math.inf)

    def run(self) -> ArrivalRecord:
        """Simulate all days."""
        for step in range(len(self.record.arrivals)):
            begin = START_S + step * STEP_S
            if step % 3 == 0:  # the coordinator counts and reads anew at most once a minute or so
                self._refresh_stats(begin)
            if step % 30 == 0:
                self.record.idle_share[step : step + 30] = self._phones.idle_share(begin)
            self._end_if_due(begin)
            who = np.flatnonzero(self._phones.next_at < begin + STEP_S)
            who = who[np.argsort(self._phones.next_at[who], kind="stable")]
            self._serve(who)
        return self.record

    def _refresh_stats(self, now_s: float) -> None:
        self._active = float(np.count_nonzero(self._phones.last_seen_at >= now_s - DAY_S))
        counts = [ArrivalCount(TASK, hour, number, number) for hour, number in self._by_hour.items()]
        self._hours, self._per_s = hours_of_day(counts, now_s), arrivals_per_s(counts, now_s)
        self._present = float(np.count_nonzero(self._phones.last_seen_at >= now_s - HOUR_S))

    def _serve(self, who: Ints) -> None:
        at = self._phones.next_at[who]
        new = ~self._phones.is_enrolled[who]
        self._enrol(who[new], at[new])
        who, at = who[~new], at[~new]
        if len(who) == 0:
            return
        hour = hour_of(float(at[0]))
        self._by_hour[hour] = self._by_hour.get(hour, 0) + len(who)
        np.add.at(self.record.arrivals, ((at - START_S) // STEP_S).astype(np.int64).clip(0, None), 1)
        self._phones.last_seen_at[who] = at
        taken = self._assigned(who, at)
        self._turn_away(who[~taken], at[~taken])

    def _enrol(self, who: Ints, at: Floats) -> None:
        self._phones.is_enrolled[who] = True
        self._phones.last_seen_at[who] = at
        spread = pacing.spread_s(self._policy, BOUNDS, self._active) if self._scenario.is_paced else 0.0
        window = pacing.first_visit(spread)
        # "At once" is a step later, so that nobody comes twice in one.
        self._schedule_check_in(
            who, at, np.full(len(who), max(window.min_s, STEP_S)), np.full(len(who), window.max_s)
        )

    def _assigned(self, who: Ints, at: Floats) -> NDArray[np.bool_]:
        """Give slots of the open round to phones, and return which phones got one."""
        taken = np.zeros(len(who), np.bool_)
        current, slots = self._open, self._policy.slots
        for place, (phone, now_s) in enumerate(zip(who.tolist(), at.tolist(), strict=True)):
            if current.assigned >= slots:
                break
            if self._scenario.is_paced and not self._is_sampled(phone, now_s):
                continue
            taken[place] = True
            current.assigned += 1
            train_s = self._rng.lognormal(math.log(120.0), 0.6)
            if self._rng.random() >= DROP_OUT_SHARE:
                current.reports_at.append(now_s + train_s)
            if current.assigned == slots:
                current.filled_after_s = now_s - current.opened_at
            # A phone that has contributed comes again after its report's return window.
            window = pacing.after_work(0.0, BOUNDS, spread_s=self._spread_s())
            fixed = (FIXED_RETRY_S, FIXED_RETRY_S)
            low, high = (window.min_s, window.max_s) if self._scenario.is_paced else fixed
            one = np.array([phone])
            self._schedule_check_in(one, np.array([now_s + train_s]), np.array([low]), np.array([high]))
        return taken

    def _is_sampled(self, phone: int, now_s: float) -> bool:
        current = self._open
        if math.isinf(current.expected):
            cycle_s = usual_cycle_s(self._policy, self._history) if self._history.durations_s else 0.0
            current.expected = self._expected_arrivals(cycle_s)
        slots, window_s = self._policy.slots, self._policy.selection_window_s
        elapsed_s = now_s - current.opened_at
        if self._phones_meet():
            window_s = meeting_window_s(window_s, pacing.meeting_period_s(BOUNDS))
            probability = meeting_probability(slots, current.expected, elapsed_s, window_s)
        else:
            probability = sampling_probability(slots, current.expected, elapsed_s, window_s)
        return _hash_ratio(current.sequence, phone) < probability

    def _turn_away(self, who: Ints, at: Floats) -> None:
        if not self._scenario.is_paced:
            fixed = np.full(len(who), FIXED_RETRY_S)
            self._schedule_check_in(who, at, fixed, fixed)
            return
        if len(who) == 0:
            return
        # One window for all that come within a step.
        now_s = float(at[0])
        usual = pacing.return_window(self._policy, BOUNDS, self._active, now_s, hours=self._hours)
        low, high = np.full(len(who), usual.min_s), np.full(len(who), usual.max_s)
        if self._open.assigned >= self._policy.slots:
            is_next, soon = self._next_sample(who, now_s)
            low[is_next], high[is_next] = soon.min_s, soon.max_s
        self._schedule_check_in(who, at, low, high)

    def _next_sample(self, who: Ints, now_s: float) -> tuple[NDArray[np.bool_], ReturnWindow]:
        cycle_s = usual_cycle_s(self._policy, self._history)
        probability = sampling_probability(self._policy.slots, self._expected_arrivals(cycle_s), 0.0, 1.0)
        following = self._open.sequence + 1
        is_next = np.array([_hash_ratio(following, phone) < probability for phone in who.tolist()])
        opens_in_s = self._open.opened_at + (typical_duration_s(self._history) or 0.0) - now_s
        if self._phones_meet():
            is_next[:] = True
            opens_in_s = pacing.rest_s(opens_in_s, now_s - self._open.opened_at)
        soon = pacing.next_round_window(self._policy, BOUNDS, self._active, now_s, opens_in_s=opens_in_s)
        return is_next, soon

    def _expected_arrivals(self, cycle_s: float) -> float:
        return pacing.expected_arrivals(
            self._policy,
            BOUNDS,
            self._active,
            cycle_s=cycle_s,
            present_devices=self._present,
            observed_per_s=self._per_s,
        )

    def _phones_meet(self) -> bool:
        return pacing.meets(self._policy, BOUNDS, self._active)

    def _spread_s(self) -> float:
        return pacing.spread_s(self._policy, BOUNDS, self._active)

    def _schedule_check_in(self, who: Ints, at: Floats, low: Floats, high: Floats) -> None:
        self._phones.next_at[who] = self._phones.idle_at(
            who, at + self._rng.uniform(low, np.maximum(low, high))
        )

    def _end_if_due(self, now_s: float) -> None:
        current, goal = self._open, self._policy.goal
        arrived = sorted(current.reports_at)
        is_met = len(arrived) >= goal and arrived[goal - 1] <= now_s
        if not is_met and now_s < current.opened_at + self._policy.deadline_s:
            return
        ended_at = now_s
        duration_s = ended_at - current.opened_at
        if is_met or sum(report <= now_s for report in arrived) >= self._policy.minimum_reports:
            durations = (duration_s, *self._history.durations_s)[:MAX_ROUNDS]
            self._history = RoundHistory(durations)
        self.record.rounds.append((current.opened_at, current.filled_after_s, duration_s, is_met))
        self._open = SimulatedRound(current.sequence + 1, ended_at, math.inf)


def _hash_ratio(sequence: int, phone: int) -> float:
    return hash_ratio(KEY, round_id(TASK, sequence), DeviceId(f"{phone:032x}"))
