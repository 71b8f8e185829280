"""How fast a task's phones come, and so when they should return: the pure rules, fed from the rows."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.availability import (
    EVEN,
    HOURS_REMEMBERED,
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
    next_round_window,
    return_window,
    spread_s,
)
from keyflock_server.rounds.task import RoundPolicy
from keyflock_server.rounds.tuning import (
    ROUNDS,
    RoundHistory,
    assignment_limit_s,
    typical_duration_s,
    usual_cycle_s,
)

_COUNT_LIFE: Final = timedelta(seconds=30)
#: Counts of check-ins are written, and what follows from them is read, at most so often.
_BOOK_LIFE: Final = timedelta(seconds=60)
#: Past assignments that the time of the next ones is worked out from.
_LIMIT_ASSIGNMENTS: Final = 1_000
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Tempo:
    """What is known of a task's phones."""

    read_at: datetime
    share: float = 1.0
    hours: tuple[float, ...] = EVEN
    #: Eligible check-ins a second; None while too few came to go by.
    per_s: float | None = None
    #: The last rounds, without their assignments.
    history: RoundHistory = RoundHistory()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class _Count:
    #: Seen within a day, and within an hour.
    day: ActiveDevices
    hour: ActiveDevices
    at: datetime


@dataclass(slots=True)
class _CheckIns:
    """Counts of one task in one hour, not written down yet."""

    proven: int = 0
    unproven: int = 0
    eligible: int = 0


class Pace:
    """Counts check-ins by the hour, and says when phones should return. Nothing is kept of a single phone."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._active: dict[PopulationName, _Count] = {}
        self._tempos: dict[TaskName, Tempo] = {}
        #: By task: its open round, and how long an assignment of it may take.
        self._limits: dict[TaskName, tuple[RoundId, float | None]] = {}
        #: By task and hour.
        self._unwritten: dict[tuple[TaskName, int], _CheckIns] = {}
        self._written_at: datetime | None = None
        #: Held while rows are read: a crowd that checks in at once costs one reading.
        self._reading = asyncio.Lock()
        #: By task: what its open round was expected to bring when it was first asked; that does not move,
        #: so the probability of a round only rises.
        self._expected: dict[TaskName, tuple[RoundId, float]] = {}

    async def look(self, desk: Desk) -> None:
        """Read what has become old; everything below goes by what was read last."""
        if self._must_read(desk):
            is_known = desk.spec.population in self._active and desk.task in self._tempos
            is_known = is_known and self._is_limit_known(desk)
            if not (is_known and self._reading.locked()):
                # One phone of a crowd reads; the others go by what is old, or wait where nothing is known.
                async with self._reading:
                    await self._read(desk)
        desk.spread_s = spread_s(
            _policy(desk), desk.spec.pacing, self._eligible_devices(desk), self._seen_devices(desk)
        )

    def _must_read(self, desk: Desk) -> bool:
        now = self._world.clock()
        counted, tempo = self._active.get(desk.spec.population), self._tempos.get(desk.task)
        is_counted = counted is not None and not _is_old(counted.at, now, _COUNT_LIFE)
        is_paced = tempo is not None and not _is_old(tempo.read_at, now, _BOOK_LIFE)
        return not (is_counted and is_paced and self._is_limit_known(desk))

    def _is_limit_known(self, desk: Desk) -> bool:
        opened, known = desk.open, self._limits.get(desk.task)
        return opened is None or opened.round.is_async or (known is not None and known[0] == opened.id)

    async def _read(self, desk: Desk) -> None:
        now, population = self._world.clock(), desk.spec.population
        counted = self._active.get(population)
        if counted is None or _is_old(counted.at, now, _COUNT_LIFE):
            day = await self._world.store.devices.count_active(population, now - _DAY)
            hour = await self._world.store.devices.count_active(population, now - _HOUR)
            self._active[population] = _Count(day, hour, now)
        tempo = self._tempos.get(desk.task)
        if tempo is None or _is_old(tempo.read_at, now, _BOOK_LIFE):
            await self._write(now)
            self._tempos[desk.task] = await self._tempo(desk.task, now)
        opened = desk.open
        if opened is not None and not self._is_limit_known(desk):
            history = await self._world.store.rounds.history(desk.task, ROUNDS, _LIMIT_ASSIGNMENTS)
            limit_s = await self._world.workbench.run(
                assignment_limit_s, opened.round.spec.round, history, opened.round.sequence
            )
            self._limits[desk.task] = opened.id, limit_s

    def expires_at(self, desk: Desk, opened: OpenRound) -> datetime:
        """When an assignment that is given out now runs out of time: never after its round's deadline."""
        now, current = self._world.clock(), opened.round
        if current.is_async:
            return now + timedelta(seconds=current.spec.round.deadline_s)
        known = self._limits.get(desk.task)
        if known is None or known[0] != opened.id or known[1] is None:
            return current.deadline_at
        return min(current.deadline_at, now + timedelta(seconds=known[1]))

    def arrived(self, desk: Desk, *, is_proven: bool, is_eligible: bool) -> None:
        """Count a phone that is not in the open round; of unproven ones no more than their cap a minute.

        Args:
            desk: The task.
            is_proven: Whether a report of the device was ever counted.
            is_eligible: Whether it could have taken a slot.
        """
        counts = self._unwritten.setdefault((desk.task, hour_of(self._now_s())), _CheckIns())
        if is_proven:
            counts.proven += 1
        elif counts.unproven < unproven_cap(counts.proven, _policy(desk).slots):
            counts.unproven += 1
        else:
            return
        counts.eligible += is_eligible

    def window(self, desk: Desk) -> ReturnWindow:
        """When a phone without work should ask again."""
        return return_window(
            _policy(desk),
            desk.spec.pacing,
            self._eligible_devices(desk),
            self._now_s(),
            load=self._world.load(),
            hours=self._tempo_of(desk).hours,
            seen_devices=self._seen_devices(desk),
        )

    def next_round_window(self, desk: Desk) -> ReturnWindow:
        """When a phone that is in the next round's sample should come."""
        return next_round_window(
            _policy(desk),
            desk.spec.pacing,
            self._eligible_devices(desk),
            self._now_s(),
            opens_in_s=self._next_opens_in_s(desk),
            load=self._world.load(),
        )

    def expected(self, desk: Desk, opened: OpenRound) -> float:
        """Eligible devices expected for the open round."""
        known = self._expected.get(desk.task)
        if known is None or known[0] != opened.id:
            # Phones that came while the round before was full were judged for this one.
            cycle_s = self._cycle_s(desk) if self._tempo_of(desk).history.durations_s else 0.0
            known = self._expected[desk.task] = (opened.id, self._arrivals(desk, cycle_s))
        return known[1]

    def expected_next(self, desk: Desk) -> float:
        """Eligible devices expected for the round that follows the open one."""
        cycle_s, seen = self._cycle_s(desk), self._seen_devices(desk)
        arrivals = self._arrivals(desk, cycle_s)
        if is_crowd(desk.spec.pacing, seen):
            # However few of them count: they must not all be called to the next opening.
            arrivals = max(arrivals, min(seen, CROWD_PER_S * cycle_s))
        return arrivals

    def _arrivals(self, desk: Desk, cycle_s: float) -> float:
        return expected_arrivals(
            _policy(desk),
            desk.spec.pacing,
            self._eligible_devices(desk),
            cycle_s=cycle_s,
            present_devices=self._present_devices(desk),
            observed_per_s=self._tempo_of(desk).per_s,
        )

    def _next_opens_in_s(self, desk: Desk) -> float:
        typical_s = typical_duration_s(self._tempo_of(desk).history)
        if desk.open is None or typical_s is None:
            return 0.0
        current = desk.open.round
        ends_at = min(current.opened_at + timedelta(seconds=typical_s), current.deadline_at)
        return (ends_at - self._world.clock()).total_seconds()

    def _cycle_s(self, desk: Desk) -> float:
        return usual_cycle_s(_policy(desk), self._tempo_of(desk).history)

    def _eligible_devices(self, desk: Desk) -> float:
        counted = self._active.get(desk.spec.population)
        return 0.0 if counted is None else self._eligible(desk, counted.day)

    def _present_devices(self, desk: Desk) -> float:
        counted = self._active.get(desk.spec.population)
        return 0.0 if counted is None else self._eligible(desk, counted.hour)

    def _eligible(self, desk: Desk, active: ActiveDevices) -> float:
        return counted_devices(active, _policy(desk).slots) * self._tempo_of(desk).share

    def _seen_devices(self, desk: Desk) -> float:
        """All that came within a day, however few of them count."""
        counted = self._active.get(desk.spec.population)
        return 0.0 if counted is None else float(counted.day.seen)

    def _tempo_of(self, desk: Desk) -> Tempo:
        return self._tempos.get(desk.task) or Tempo(self._world.clock())

    async def _tempo(self, task: TaskName, now: datetime) -> Tempo:
        store, now_s = self._world.store, now.timestamp()
        counts = await store.arrivals.since(task, hour_of(now_s) - HOURS_REMEMBERED)
        history = await store.rounds.history(task, ROUNDS, 0)
        return Tempo(
            now,
            eligible_share(counts, now_s),
            hours_of_day(counts, now_s),
            arrivals_per_s(counts, now_s),
            history,
        )

    async def _write(self, now: datetime) -> None:
        """What a crash may lose is a minute of a statistic."""
        if self._written_at is not None and not _is_old(self._written_at, now, _BOOK_LIFE):
            return
        is_new_day = self._written_at is None or self._written_at.date() != now.date()
        counted, self._unwritten, self._written_at = self._unwritten, {}, now
        if counted:
            try:
                await self._world.store.arrivals.add(
                    [
                        ArrivalCount(task, hour, one.proven + one.unproven, one.eligible)
                        for (task, hour), one in counted.items()
                    ]
                )
            except BaseException:
                for key, one in counted.items():
                    more = self._unwritten.setdefault(key, _CheckIns())
                    more.proven += one.proven
                    more.unproven += one.unproven
                    more.eligible += one.eligible
                self._written_at = None  # the next check-in tries again
                raise
        if is_new_day:
            await self._world.store.arrivals.prune(hour_of(now.timestamp()) - HOURS_REMEMBERED)

    def _now_s(self) -> float:
        return self._world.clock().timestamp()


def _policy(desk: Desk) -> RoundPolicy:
    """Return the open round's policy, whose numbers may be tuned; else the task's, as it was written."""
    return desk.spec.round if desk.open is None else desk.open.round.spec.round


def _is_old(at: datetime, now: datetime, life: timedelta) -> bool:
    """Also when the clock was set back."""
    return not timedelta(0) <= now - at < life
