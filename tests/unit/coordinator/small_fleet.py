"""A fleet of phones that keep to their return windows, against coordinators in virtual time.

It measures how long rounds take to fill, and how often phones come for nothing.
"""

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    CheckIn,
    Failure,
    FailureCause,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.round import Phase


@dataclass
class Habits:
    """What phones are like."""

    #: The median time of a training, and the standard deviation of its logarithm.
    train_s: float = 0.5
    train_spread: float = 0.5
    #: The maximum latency of a check-in.
    latency_s: float = 0.1
    #: The share of trainings that are given back, and of those after which the phone says nothing.
    give_back_share: float = 0.04
    silent_share: float = 0.04
    #: How long a phone that said nothing stays away.
    absence_s: float = 20.0
    #: The first instant from one on at which a phone, by its number, may check in.
    next_idle_s: Callable[[int, float], float] = lambda _, at_s: at_s


@dataclass
class FilledRound:
    """What a fleet has seen of one round."""

    opened_at: float
    ended_at: float = math.inf
    assigned_at: list[float] = field(default_factory=list)
    #: Slots of the round.
    slots: int = 0

    def filled_after_s(self, phones: int) -> float:
        """Return the time from its opening until all its slots, or all phones of a smaller fleet, were taken.

        A round that ended before that needed no more.
        """
        wanted = min(self.slots, phones)
        filled_at = self.ended_at if len(self.assigned_at) < wanted else self.assigned_at[wanted - 1]
        return filled_at - self.opened_at


class SmallFleet:
    """Runs phones against coordinators that share one store.

    Args:
        harness: Its clock is the fleet's.
        phones: Number of phones.
        seed: Decides all that is drawn.
        habits: What phones are like.
        coordinators: The processes that phones reach at random; left out, the harness's own.
        tick_s: Time between two passes of each process.
    """

    def __init__(
        self,
        harness: CoordinatorHarness,
        phones: int,
        *,
        seed: int = 0,
        habits: Habits | None = None,
        coordinators: list[Coordinator] | None = None,
        tick_s: float = 0.2,
    ) -> None:
        self.harness, self.phones = harness, phones
        self.habits = habits or Habits()
        self.coordinators = coordinators or [harness.coordinator]
        self.rounds: dict[str, FilledRound] = {}
        self.refused: Counter[str] = Counter()
        self.check_ins = 0
        self.assigned = 0
        self.reports = 0
        #: How often each phone took part.
        self.taken_part: Counter[int] = Counter()
        #: Assignments of this share of the phones stay unanswered while this is set.
        self.is_silent: Callable[[int], bool] = lambda _: False
        self._rng = random.Random(f"fleet {seed}")
        self._order = itertools.count()
        self._queue: list[tuple[float, int, int, Callable[[], object]]] = []
        self.devices: dict[int, DeviceIdentity] = {}
        self._windows: dict[int, ReturnWindow] = {}
        self._epoch = harness.now
        self._tick_s = tick_s
        # Ids differ between seeds, and so do samples.
        harness.numbers = itertools.count(1 + 10_000_000 * (seed + 1))
        self._schedule(0.0, -1, self._tick)
        self._schedule(0.0, -1, self._enrol)

    @property
    def now_s(self) -> float:
        return (self.harness.now - self._epoch).total_seconds()

    async def run(self, seconds: float, *, until_rounds: int | None = None) -> None:
        """Run for some time, or until so many rounds were opened."""
        end_s = self.now_s + seconds
        while self._queue[0][0] <= end_s:
            at_s, _, _, action = heapq.heappop(self._queue)
            self.harness.now = self._epoch + timedelta(seconds=max(at_s, self.now_s))
            await action()  # type: ignore[misc]
            if until_rounds is not None and len(self.rounds) > until_rounds:
                return

    def ended(self, task: str = "t") -> list[FilledRound]:
        """Return the task's rounds in order, without the one under way."""
        return [one for name, one in self.rounds.items() if name.startswith(f"{task}-")][:-1]

    def _schedule(self, at_s: float, phone: int, action: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (at_s, next(self._order), phone, action))

    async def _tick(self) -> None:
        for coordinator in self.coordinators:
            await coordinator.tick()
        self._watch()
        self._schedule(self.now_s + self._tick_s, -1, self._tick)

    def _watch(self) -> None:
        for state in self.coordinators[0].registry:
            if state.open_round is None:
                continue
            current = state.open_round.round
            if current.id not in self.rounds and current.phase is Phase.COLLECTING:
                for name, one in self.rounds.items():
                    if name.startswith(f"{state.task}-"):
                        one.ended_at = min(one.ended_at, self._seconds(current.opened_at))
                self.rounds[current.id] = FilledRound(self._seconds(current.opened_at), slots=current.slots)

    def _seconds(self, at: datetime) -> float:
        return (at - self._epoch).total_seconds()

    def _come_back(self, phone: int, window: ReturnWindow | None) -> None:
        window = window or self._windows.get(phone, ReturnWindow(min_s=60.0, max_s=600.0))
        self._windows[phone] = window
        at_s = self.now_s + self._rng.uniform(window.min_s, window.max_s)
        at_s += self._rng.uniform(0.0, self.habits.latency_s)
        self._schedule(self.habits.next_idle_s(phone, at_s), phone, lambda: self._check_in(phone))

    async def _enrol(self) -> None:
        """Add devices that have reported before: they count from the first round on."""
        for phone in range(self.phones):
            self.devices[phone] = await self.harness.enrol_proven()
            self._come_back(phone, ReturnWindow(min_s=0.0, max_s=1.0))

    def _anyone(self) -> Coordinator:
        return self._rng.choice(self.coordinators)

    async def _check_in(self, phone: int) -> None:
        self.check_ins += 1
        capabilities = Capabilities(tasks=("train", "personalize"))
        message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=capabilities)
        answer = await self._anyone().check_ins.check_in(self.devices[phone], message)
        if not isinstance(answer, Assignment):
            self.refused[answer.reason] += 1
            self._come_back(phone, answer.return_window)
            return
        self._watch()
        self.assigned += 1
        self.taken_part[phone] += 1
        self.rounds[answer.round].assigned_at.append(self.now_s)
        claims, habits = self.harness.claims(answer), self.habits
        train_s = habits.train_s * self._rng.lognormvariate(0.0, habits.train_spread)
        drawn = self._rng.random()
        if self.is_silent(phone) or drawn < habits.silent_share:
            absent_s = self._rng.expovariate(1.0) * habits.absence_s
            self._schedule(self.now_s + train_s + absent_s, phone, lambda: self._check_in(phone))
        elif drawn < habits.silent_share + habits.give_back_share:
            self._schedule(self.now_s + train_s / 2, phone, lambda: self._give_back(phone, claims))
        else:
            self._schedule(self.now_s + train_s, phone, lambda: self._report(phone, claims))

    async def _give_back(self, phone: int, claims: AssignmentClaims) -> None:
        window = None
        try:
            failure = Failure(cause=FailureCause.INTERRUPTED, session_shape="-*")
            window = (await self._anyone().reports.failure(claims, failure)).return_window
        except ApiError:
            pass
        self._come_back(phone, window)

    async def _report(self, phone: int, claims: AssignmentClaims) -> None:
        try:
            receipt = await self._anyone().reports.report(claims, report(constant(1.0), of=claims))
        except ApiError as refused:
            if refused.code is ProblemCode.REPORT_PENDING and refused.retry is not None:
                after_s = self._rng.uniform(refused.retry.min_s, refused.retry.max_s)
                self._schedule(self.now_s + after_s, phone, lambda: self._report(phone, claims))
                return
            self._come_back(phone, None)
            return
        self.reports += 1
        self._come_back(phone, receipt.return_window)
