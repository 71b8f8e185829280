"""When phones arrive, with and without pace steering: 50 and 1,000,000 of them over three days.

make bench-arrivals            (about two minutes)

Virtual time in steps of 20 s. Phones are idle for about seven hours a night and obey their return windows;
the server's side is its own pure functions (``rounds.pacing``, ``rounds.selection``, ``rounds.availability``,
``rounds.tuning``), fed as the coordinator feeds them.
"""

import argparse
import math
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrivals_picture import save_arrivals
from benchmarks.page import PICTURES, Section, table, write
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


HEADER: Final = (
    "phones",
    "return window",
    "check-ins/s",
    "busiest minute to mean of ten, first night, 3 h to 5 h",
    "busiest minute of all days, check-ins/s",
    "check-ins a report",
    "rounds",
    "full within the selection window %",
    "goal met %",
    "to fill, s",
    "a round, s",
)


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
        self._busy_until = np.zeros(scenario.phones)
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


@dataclass(frozen=True, slots=True)
class ArrivalFigures:
    """The figures of one run: of the last night, 23 h to 5 h, unless a field says otherwise."""

    mean_per_s: float
    #: The busiest minute against the mean of its ten minutes, in the second and third hour after enrolment.
    burst_ratio: float
    #: The busiest minute of all days.
    worst_per_s: float
    check_ins_a_report: float
    rounds: int
    on_time_ratio: float
    goal_ratio: float
    fill_median_s: float
    round_median_s: float


def figures(record: ArrivalRecord) -> ArrivalFigures:
    """Return the figures that the table shows of a run."""
    minutes = record.arrivals.reshape(-1, 3).sum(axis=1)
    tens = minutes[60:180].reshape(12, 10)
    busy = tens.sum(axis=1) >= 600  # in a quieter stretch, bursts are chance
    bursts = tens[busy].max(axis=1) / tens[busy].mean(axis=1) if busy.any() else np.array([np.nan])
    night = [one for one in record.rounds if _is_last_night(one[0])]
    fills = [fill_s if fill_s is not None else math.inf for _, fill_s, _, _ in night]
    window_s = record.scenario.policy.selection_window_s
    met = sum(is_met for *_, is_met in night)
    check_ins_by_minute = [
        count for minute, count in enumerate(minutes.tolist()) if _is_last_night(START_S + 60.0 * minute)
    ]
    return ArrivalFigures(
        mean_per_s=float(np.mean(check_ins_by_minute)) / 60.0,
        burst_ratio=float(bursts.max()),
        worst_per_s=float(minutes.max()) / 60.0,
        check_ins_a_report=sum(check_ins_by_minute) / max(1, met * record.scenario.goal),
        rounds=len(night),
        on_time_ratio=float(np.mean([fill_s <= window_s for fill_s in fills])),
        goal_ratio=met / max(1, len(night)),
        fill_median_s=float(np.median(fills)),
        round_median_s=float(np.median([duration_s for _, _, duration_s, _ in night])),
    )


def _is_last_night(at_s: float) -> bool:
    begins_s = START_S + DAYS * DAY_S - 27.0 * HOUR_S  # the run ends at two in the night
    return begins_s <= at_s < begins_s + 6.0 * HOUR_S


def main() -> None:
    """Run, draw, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--phones", type=int, nargs=2, default=(50, 1_000_000))
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    runs = []
    for phones in options.phones:
        goal = 100 if phones > 1_000 else 20
        for is_paced in (False, True):
            began = time.perf_counter()
            runs.append(ArrivalSimulation(ArrivalScenario(phones, goal, is_paced), seed=1).run())
            print(
                f"{phones:,} phones, paced {is_paced}: {time.perf_counter() - began:.0f} s", figures(runs[-1])
            )
    if options.dry_run:
        return
    small, large = runs[0].scenario, runs[-1].scenario
    body = f"""{table(HEADER, [_row(record) for record in runs])}

Phones are idle about seven hours a night (from 23 h ± 1.5 h on); an app update enrols all of them within
two minutes at 2 h of the first day, and {DAYS} days follow. Rounds of {small.goal} reports for
{small.phones:,} phones and of {large.goal} for {large.phones:,}, 30 % over-selection,
{100 * DROP_OUT_SHARE:.0f} % drop-outs, deadline 600 s; training takes 120 s (median). *Fixed* tells every
phone to come again in {FIXED_RETRY_S:.0f} s and takes whoever comes first; *steered* is the server's own
`rounds.pacing` and `rounds.selection`. Figures without a day are of the last whole night, 23 h to 5 h. In
the selection window: all slots taken within 150 s of the opening, of which selection is choosy for the
first 75 s, so that nobody is preferred for coming often. The steered first minutes are what comes before the
server has counted how many there are.

![arrivals](docs/pictures/arrivals.png)"""
    save_arrivals(
        [
            (record.scenario.phones, record.scenario.is_paced, record.arrivals, record.idle_share)
            for record in runs
        ],
        PICTURES / "arrivals.png",
        step_s=STEP_S,
        start_s=START_S,
    )
    write(Section("arrivals", "When phones arrive", "make bench-arrivals", body))


def _row(record: ArrivalRecord) -> tuple[str, ...]:
    run_figures = figures(record)
    return (
        f"{record.scenario.phones:,}",
        "**steered**" if record.scenario.is_paced else "fixed",
        f"{run_figures.mean_per_s:,.2f}",
        "" if math.isnan(run_figures.burst_ratio) else f"{run_figures.burst_ratio:.2f}",
        f"{run_figures.worst_per_s:,.1f}",
        f"{run_figures.check_ins_a_report:,.1f}",
        f"{run_figures.rounds}",
        f"{100 * run_figures.on_time_ratio:.0f}",
        f"{100 * run_figures.goal_ratio:.0f}",
        f"{run_figures.fill_median_s:.0f}",
        f"{run_figures.round_median_s:.0f}",
    )


if __name__ == "__main__":
    main()
