"""Pace steering applies the pure pacing rules to stored counts: how fast phones come, when they return.

Passes read the counts and write those of this process; check-ins only use what was read last.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_pace import ArrivalStats, RoundSampling, TaskPace
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.rounds.availability import (
    HOUR_S,
    HOURS_REMEMBERED,
    ActiveDevices,
    ArrivalCount,
    arrivals_per_s,
    eligible_share,
    hour_of,
    hours_of_day,
    unproven_cap,
)
from keyflock_server.rounds.pacing import spread_s
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.task import RoundPolicy
from keyflock_server.rounds.tuning import MAX_ROUNDS, RoundHistory, assignment_limit_s

#: Counts of active devices are read at most once in this interval.
_COUNT_LIFE: Final = timedelta(seconds=30)
#: Counts of check-ins are written, and statistics read, at most once in this interval.
_STATS_LIFE: Final = timedelta(seconds=60)
#: Number of past assignments from which the time limit of the next ones is computed.
_LIMIT_ASSIGNMENTS: Final = 1_000
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _ActiveCounts:
    #: Devices seen within a day, and within an hour.
    day: ActiveDevices
    hour: ActiveDevices
    at: datetime


@dataclass(frozen=True, slots=True)
class _TaskStats:
    read_at: datetime
    share: float
    hours: tuple[float, ...]
    per_s: float | None
    history: RoundHistory


@dataclass(slots=True)
class _CheckInCounts:
    """Counts of one task in one hour that are not stored yet."""

    proven: int = 0
    unproven: int = 0
    eligible: int = 0


@dataclass(frozen=True, slots=True)
class _Moment:
    """A task's pace, and what it holds for: a second, a load and an open round, which it does not keep."""

    second: int
    load: float
    round_id: RoundId | None
    pace: TaskPace


class PaceSteering:
    """Counts check-ins by the hour and computes return windows; it stores nothing about one phone."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._active: dict[PopulationName, _ActiveCounts] = {}
        # By the state, so that they are forgotten with the task.
        self._read: WeakKeyDictionary[TaskState, _TaskStats] = WeakKeyDictionary()
        self._stats: WeakKeyDictionary[TaskState, ArrivalStats] = WeakKeyDictionary()
        self._moments: WeakKeyDictionary[TaskState, _Moment] = WeakKeyDictionary()
        #: Each task's open round, and the time limit of its assignments.
        self._limits: WeakKeyDictionary[TaskState, tuple[RoundId, float | None]] = WeakKeyDictionary()
        #: Counts that are not stored yet, by task and hour.
        self._unwritten: dict[tuple[TaskName, int], _CheckInCounts] = {}
        self._written_at: datetime | None = None
        #: The sampling of each task's open round, as of its first check-in.
        self._samplings: WeakKeyDictionary[TaskState, RoundSampling] = WeakKeyDictionary()

    async def refresh_stats(self, state: TaskState) -> None:
        """Read statistics that have become old; all other methods use what was read last."""
        now, population = self._deps.clock(), state.spec.population
        counted = self._active.get(population)
        if counted is None or _is_old(counted.at, now, _COUNT_LIFE):
            day = await self._deps.store.devices.count_active(population, now - _DAY)
            hour = await self._deps.store.devices.count_active(population, now - _HOUR)
            counted = self._active[population] = _ActiveCounts(day, hour, now)
        read = self._read.get(state)
        if read is None or _is_old(read.read_at, now, _STATS_LIFE):
            await self.write_counts()
            read = self._read[state] = await self._read_stats(state.task, now)
        stats = ArrivalStats(counted.day, counted.hour, read.share, read.hours, read.per_s, read.history)
        if stats != self._stats.get(state):
            self._stats[state] = stats
            self._moments.pop(state, None)
        pace = TaskPace(state.spec, _open_round(state), stats, now, 0.0)
        state.spread_s = spread_s(
            _current_policy(state), state.spec.pacing, pace.eligible_devices, pace.seen_devices
        )

    async def prepare_round(self, state: TaskState, current: Round) -> None:
        """Read what the first check-in into a round needs, before the round can be found."""
        await self.refresh_stats(state)
        if current.is_async:
            return
        history = await self._deps.store.assignments.history(state.task, MAX_ROUNDS, _LIMIT_ASSIGNMENTS)
        limit_s = await self._deps.closing.run(
            assignment_limit_s, current.spec.round, history, current.sequence
        )
        self._limits[state] = current.id, limit_s

    def at(self, state: TaskState, now: datetime, now_s: float, load: float) -> TaskPace:
        """Return the task's pace at an instant, computed at most once a second.

        Args:
            state: The task.
            now: The instant.
            now_s: The same in seconds since the epoch.
            load: How far the server is beyond its capacity.
        """
        known, second, current = self._moments.get(state), int(now_s), _open_round(state)
        id_ = None if current is None else current.id
        if known is not None and known.second == second and known.load == load and known.round_id == id_:
            return known.pace
        pace = TaskPace(state.spec, current, self._stats.get(state) or ArrivalStats(), now, load)
        if current is not None:
            pace.draw_sample(current, self._sampling(state, current, pace))
        self._moments[state] = _Moment(second, load, id_, pace)
        return pace

    def assignment_expires_at(self, state: TaskState, opened: OpenRound) -> datetime:
        """Return when an assignment made now expires: never after its round's deadline."""
        now, current = self._deps.clock(), opened.round
        if current.is_async:
            return now + timedelta(seconds=current.spec.round.deadline_s)
        known = self._limits.get(state)
        if known is None or known[0] != opened.id or known[1] is None:
            return current.deadline_at
        return min(current.deadline_at, now + timedelta(seconds=known[1]))

    def record_check_in(self, state: TaskState, now_s: float, *, is_proven: bool, is_eligible: bool) -> None:
        """Count a phone that is not in the open round; unproven ones count up to their cap.

        Args:
            state: The task.
            now_s: The instant in seconds since the epoch.
            is_proven: Whether a report of the device was ever counted.
            is_eligible: Whether it was eligible for a slot.
        """
        key = state.task, int(now_s // HOUR_S)
        counts = self._unwritten.get(key)
        if counts is None:
            counts = self._unwritten[key] = _CheckInCounts()
        if is_proven:
            counts.proven += 1
        elif counts.unproven < unproven_cap(counts.proven, _current_policy(state).slots):
            counts.unproven += 1
        else:
            return
        counts.eligible += is_eligible

    def _sampling(self, state: TaskState, current: Round, pace: TaskPace) -> RoundSampling:
        known = self._samplings.get(state)
        if known is None or known.round_id != current.id:
            known = self._samplings[state] = pace.sampling(current)
            state.selection_window_s = known.window_s
        return known

    async def _read_stats(self, task: TaskName, now: datetime) -> _TaskStats:
        store, now_s = self._deps.store, now.timestamp()
        counts = await store.arrivals.since(task, hour_of(now_s) - HOURS_REMEMBERED)
        history = await store.assignments.history(task, MAX_ROUNDS, 0)
        return _TaskStats(
            now,
            eligible_share(counts, now_s),
            hours_of_day(counts, now_s),
            arrivals_per_s(counts, now_s),
            history,
        )

    async def write_counts(self, *, is_last: bool = False) -> None:
        """Write the counts if they are old, or if it is the last time; a crash loses a minute of them."""
        now = self._deps.clock()
        if not (is_last or self._written_at is None or _is_old(self._written_at, now, _STATS_LIFE)):
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
                self._written_at = None  # the next pass tries again
                raise
        if is_new_day:
            await self._deps.store.arrivals.prune(hour_of(now.timestamp()) - HOURS_REMEMBERED)


def _current_policy(state: TaskState) -> RoundPolicy:
    """Return the open round's policy, whose numbers may be tuned; else the task's own."""
    current = _open_round(state)
    return (state.spec if current is None else current.spec).round


def _open_round(state: TaskState) -> Round | None:
    return None if state.open_round is None else state.open_round.round


def _is_old(at: datetime, now: datetime, life: timedelta) -> bool:
    """Return whether ``life`` has passed since ``at``, or the clock was set back."""
    return not timedelta(0) <= now - at < life
