"""Pace steering applies the pure pacing rules to stored counts: how fast phones come, when they return."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.availability import (
    HOURS_REMEMBERED,
    UNIFORM_HOURS,
    ActiveDevices,
    ArrivalCount,
    arrivals_per_s,
    counted_devices,
    eligible_share,
    hour_of,
    hours_of_day,
    unproven_cap,
)
from keyflock_server.rounds.pacing import (
    CROWD_PER_S,
    expected_arrivals,
    is_crowd,
    meeting_period_s,
    meets,
    next_round_window,
    rest_s,
    return_window,
    spread_s,
)
from keyflock_server.rounds.selection import (
    meeting_probability,
    meeting_window_s,
    sampling_probability,
)
from keyflock_server.rounds.task import RoundPolicy
from keyflock_server.rounds.tuning import (
    MAX_ROUNDS,
    RoundHistory,
    assignment_limit_s,
    typical_duration_s,
    usual_cycle_s,
)

_COUNT_LIFE: Final = timedelta(seconds=30)
#: Counts of check-ins are written, and statistics read, at most once in this interval.
_STATS_LIFE: Final = timedelta(seconds=60)
#: Number of past assignments from which the time limit of the next ones is computed.
_LIMIT_ASSIGNMENTS: Final = 1_000
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """The statistics of a task's arriving phones."""

    read_at: datetime
    share: float = 1.0
    hours: tuple[float, ...] = UNIFORM_HOURS
    #: Eligible check-ins a second; None while there were too few.
    per_s: float | None = None
    #: The last rounds, without their assignments.
    history: RoundHistory = RoundHistory()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class _ActiveCounts:
    #: Devices seen within a day, and within an hour.
    day: ActiveDevices
    hour: ActiveDevices
    at: datetime


@dataclass(frozen=True, slots=True)
class _RoundSampling:
    """What decides a round's sampling probability; it stays, so that the probability only rises."""

    round_id: RoundId
    #: Number of eligible devices that are expected.
    expected: float
    #: Whether the population is small, so that its phones meet.
    is_small: bool
    #: Time after which every eligible device is taken.
    window_s: float


@dataclass(slots=True)
class _CheckInCounts:
    """Counts of one task in one hour that are not stored yet."""

    proven: int = 0
    unproven: int = 0
    eligible: int = 0


class PaceSteering:
    """Counts check-ins by the hour and computes return windows; it stores nothing about one phone."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._active: dict[PopulationName, _ActiveCounts] = {}
        # By the state, so that they are forgotten with the task.
        self._stats: WeakKeyDictionary[TaskState, ArrivalStats] = WeakKeyDictionary()
        #: Each task's open round, and the time limit of its assignments.
        self._limits: WeakKeyDictionary[TaskState, tuple[RoundId, float | None]] = WeakKeyDictionary()
        #: Counts that are not stored yet, by task and hour.
        self._unwritten: dict[tuple[TaskName, int], _CheckInCounts] = {}
        self._written_at: datetime | None = None
        #: Held while rows are read: a crowd that checks in at once costs one read.
        self._reading = asyncio.Lock()
        #: The sampling of each task's open round, as of its first check-in.
        self._samplings: WeakKeyDictionary[TaskState, _RoundSampling] = WeakKeyDictionary()

    async def refresh_stats(self, state: TaskState) -> None:
        """Read statistics that have become old; all other methods use what was read last."""
        if self._must_read(state):
            is_known = state.spec.population in self._active and state in self._stats
            is_known = is_known and self._is_limit_known(state)
            if not (is_known and self._reading.locked()):
                # One check-in of a crowd reads; the others use old statistics, or wait where there are none.
                async with self._reading:
                    await self._read_stats(state)
        state.spread_s = spread_s(
            _current_policy(state),
            state.spec.pacing,
            self._eligible_devices(state),
            self._seen_devices(state),
        )
        if state.open_round is not None:
            state.selection_window_s = self._sampling(state, state.open_round).window_s

    def _must_read(self, state: TaskState) -> bool:
        now = self._deps.clock()
        counted, stats = self._active.get(state.spec.population), self._stats.get(state)
        is_counted = counted is not None and not _is_old(counted.at, now, _COUNT_LIFE)
        is_paced = stats is not None and not _is_old(stats.read_at, now, _STATS_LIFE)
        return not (is_counted and is_paced and self._is_limit_known(state))

    def _is_limit_known(self, state: TaskState) -> bool:
        opened, known = state.open_round, self._limits.get(state)
        return opened is None or opened.round.is_async or (known is not None and known[0] == opened.id)

    async def _read_stats(self, state: TaskState) -> None:
        now, population = self._deps.clock(), state.spec.population
        counted = self._active.get(population)
        if counted is None or _is_old(counted.at, now, _COUNT_LIFE):
            day = await self._deps.store.devices.count_active(population, now - _DAY)
            hour = await self._deps.store.devices.count_active(population, now - _HOUR)
            self._active[population] = _ActiveCounts(day, hour, now)
        stats = self._stats.get(state)
        if stats is None or _is_old(stats.read_at, now, _STATS_LIFE):
            await self._write_counts(now)
            self._stats[state] = await self._load_stats(state.task, now)
        opened = state.open_round
        if opened is not None and not self._is_limit_known(state):
            history = await self._deps.store.assignments.history(state.task, MAX_ROUNDS, _LIMIT_ASSIGNMENTS)
            limit_s = await self._deps.closing.run(
                assignment_limit_s, opened.round.spec.round, history, opened.round.sequence
            )
            self._limits[state] = opened.id, limit_s

    def assignment_expires_at(self, state: TaskState, opened: OpenRound) -> datetime:
        """Return when an assignment made now expires: never after its round's deadline."""
        now, current = self._deps.clock(), opened.round
        if current.is_async:
            return now + timedelta(seconds=current.spec.round.deadline_s)
        known = self._limits.get(state)
        if known is None or known[0] != opened.id or known[1] is None:
            return current.deadline_at
        return min(current.deadline_at, now + timedelta(seconds=known[1]))

    def record_check_in(self, state: TaskState, *, is_proven: bool, is_eligible: bool) -> None:
        """Count a phone that is not in the open round; unproven ones count up to their cap.

        Args:
            state: The task.
            is_proven: Whether a report of the device was ever counted.
            is_eligible: Whether it was eligible for a slot.
        """
        counts = self._unwritten.setdefault((state.task, hour_of(self._now_s())), _CheckInCounts())
        if is_proven:
            counts.proven += 1
        elif counts.unproven < unproven_cap(counts.proven, _current_policy(state).slots):
            counts.unproven += 1
        else:
            return
        counts.eligible += is_eligible

    def window(self, state: TaskState) -> ReturnWindow:
        """Return when a phone without work should check in again."""
        return return_window(
            _current_policy(state),
            state.spec.pacing,
            self._eligible_devices(state),
            self._now_s(),
            load=self._deps.load(),
            hours=self._stats_of(state).hours,
            seen_devices=self._seen_devices(state),
        )

    def meeting_window(self, state: TaskState) -> ReturnWindow | None:
        """Return when a phone of a small population should come while a round has its phones; else None."""
        if not self._meets(state):
            return None
        opened = state.open_round
        open_for_s = 0.0 if opened is None else self._now_s() - opened.round.opened_at.timestamp()
        return self._window_from(state, rest_s(self._next_opens_in_s(state), open_for_s))

    def next_round_window(self, state: TaskState) -> ReturnWindow:
        """Return when a phone in the next round's sample should check in."""
        return self._window_from(state, self._next_opens_in_s(state))

    def _window_from(self, state: TaskState, opens_in_s: float) -> ReturnWindow:
        return next_round_window(
            _current_policy(state),
            state.spec.pacing,
            self._eligible_devices(state),
            self._now_s(),
            opens_in_s=opens_in_s,
            load=self._deps.load(),
        )

    def probability(self, state: TaskState, opened: OpenRound) -> float:
        """Return the probability that an eligible device is in the open round's sample now."""
        policy = opened.round.spec.round
        if policy.is_async:
            # Slots become free one by one, each for the next device: sampling would leave them empty.
            return 1.0
        sampling = self._sampling(state, opened)
        elapsed_s = (self._deps.clock() - opened.round.opened_at).total_seconds()
        probability = meeting_probability if sampling.is_small else sampling_probability
        return probability(policy.slots, sampling.expected, elapsed_s, sampling.window_s)

    def _sampling(self, state: TaskState, opened: OpenRound) -> _RoundSampling:
        known = self._samplings.get(state)
        if known is None or known.round_id != opened.id:
            window_s, is_small = opened.round.spec.round.selection_window_s, self._meets(state)
            if is_small:
                window_s = meeting_window_s(window_s, meeting_period_s(state.spec.pacing))
            # Phones that came while the round before was full were sampled for this one.
            cycle_s = self._cycle_s(state) if self._stats_of(state).history.durations_s else 0.0
            known = _RoundSampling(opened.id, self._arrivals(state, cycle_s), is_small, window_s)
            self._samplings[state] = known
        return known

    def _meets(self, state: TaskState) -> bool:
        return meets(
            _current_policy(state),
            state.spec.pacing,
            self._eligible_devices(state),
            self._seen_devices(state),
        )

    def expected_devices_next(self, state: TaskState) -> float:
        """Return how many eligible devices are expected for the round after the open one."""
        cycle_s, seen = self._cycle_s(state), self._seen_devices(state)
        arrivals = self._arrivals(state, cycle_s)
        if is_crowd(state.spec.pacing, seen):
            # Even if few of them count, they must not all be called to the next opening.
            arrivals = max(arrivals, min(seen, CROWD_PER_S * cycle_s))
        return arrivals

    def _arrivals(self, state: TaskState, cycle_s: float) -> float:
        return expected_arrivals(
            _current_policy(state),
            state.spec.pacing,
            self._eligible_devices(state),
            cycle_s=cycle_s,
            present_devices=self._present_devices(state),
            observed_per_s=self._stats_of(state).per_s,
        )

    def _next_opens_in_s(self, state: TaskState) -> float:
        typical_s = typical_duration_s(self._stats_of(state).history)
        if state.open_round is None or typical_s is None:
            return 0.0
        current = state.open_round.round
        ends_at = min(current.opened_at + timedelta(seconds=typical_s), current.deadline_at)
        return (ends_at - self._deps.clock()).total_seconds()

    def _cycle_s(self, state: TaskState) -> float:
        return usual_cycle_s(_current_policy(state), self._stats_of(state).history)

    def _eligible_devices(self, state: TaskState) -> float:
        counted = self._active.get(state.spec.population)
        return 0.0 if counted is None else self._eligible(state, counted.day)

    def _present_devices(self, state: TaskState) -> float:
        counted = self._active.get(state.spec.population)
        return 0.0 if counted is None else self._eligible(state, counted.hour)

    def _eligible(self, state: TaskState, active: ActiveDevices) -> float:
        return counted_devices(active, _current_policy(state).slots) * self._stats_of(state).share

    def _seen_devices(self, state: TaskState) -> float:
        """Return all devices that came within a day, even if few of them count."""
        counted = self._active.get(state.spec.population)
        return 0.0 if counted is None else float(counted.day.seen)

    def _stats_of(self, state: TaskState) -> ArrivalStats:
        return self._stats.get(state) or ArrivalStats(self._deps.clock())

    async def _load_stats(self, task: TaskName, now: datetime) -> ArrivalStats:
        store, now_s = self._deps.store, now.timestamp()
        counts = await store.arrivals.since(task, hour_of(now_s) - HOURS_REMEMBERED)
        history = await store.assignments.history(task, MAX_ROUNDS, 0)
        return ArrivalStats(
            now,
            eligible_share(counts, now_s),
            hours_of_day(counts, now_s),
            arrivals_per_s(counts, now_s),
            history,
        )

    async def _write_counts(self, now: datetime) -> None:
        """Write the counts if they are old; a crash loses a minute of them at most."""
        if self._written_at is not None and not _is_old(self._written_at, now, _STATS_LIFE):
            return
        is_new_day = self._written_at is None or self._written_at.date() != now.date()
        counted, self._unwritten, self._written_at = self._unwritten, {}, now
        if counted:
            try:
                await self._deps.store.arrivals.add(
                    [
                        ArrivalCount(task, hour, one.proven + one.unproven, one.eligible)
                        for (task, hour), one in counted.items()
                    ]
                )
            except BaseException:
                for key, one in counted.items():
                    more = self._unwritten.setdefault(key, _CheckInCounts())
                    more.proven += one.proven
                    more.unproven += one.unproven
                    more.eligible += one.eligible
                self._written_at = None  # the next check-in tries again
                raise
        if is_new_day:
            await self._deps.store.arrivals.prune(hour_of(now.timestamp()) - HOURS_REMEMBERED)

    def _now_s(self) -> float:
        return self._deps.clock().timestamp()


def _current_policy(state: TaskState) -> RoundPolicy:
    """Return the open round's policy, whose numbers may be tuned; else the task's own."""
    return state.spec.round if state.open_round is None else state.open_round.round.spec.round


def _is_old(at: datetime, now: datetime, life: timedelta) -> bool:
    """Return whether ``life`` has passed since ``at``, or the clock was set back."""
    return not timedelta(0) <= now - at < life
