"""The visits of a run: which phone comes when, in what condition, and by which rules it plays."""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from keyflock_load_tests.arrivals import arrival_times, visitors
from keyflock_load_tests.bad_phones import ACTS, BadPhone
from keyflock_load_tests.connection import Connection, HttpConnection
from keyflock_load_tests.measured_calls import MeasuredCalls
from keyflock_load_tests.measurement import BAD_PHONE, Measurements
from keyflock_load_tests.open_loop import RunLimits, run_open_loop
from keyflock_load_tests.phone_script import DeltaFor, PhoneState, Visit, VisitConditions
from keyflock_load_tests.scenario import Scenario

#: Ends the names of calls of phones whose uploads trickle, and of all others while those do.
SLOW: Final = " (slow phone)"
BESIDE: Final = " (beside slow phones)"


@dataclass(frozen=True, slots=True)
class Visits:
    """All visits of a run.

    Args:
        scenario: How many, and how they behave.
        population: The population of all phones.
        fleet: The phones, enrolled.
        delta_for: Returns an encoded delta that fits an assignment.
        next_url: Returns the address for the next connection.
        clock: Seconds since the start of the run.
        measurements: Where all is recorded.
    """

    scenario: Scenario
    population: str
    fleet: list[PhoneState]
    delta_for: DeltaFor
    next_url: Callable[[], str]
    clock: Callable[[], float]
    measurements: Measurements
    _rng: random.Random = field(default_factory=random.Random)

    async def play(self) -> None:
        """Start each visit at its instant, and return when all have ended."""
        scenario = self.scenario
        arrivals_rng = np.random.default_rng(scenario.seed)
        arrivals_s = arrival_times(scenario.arrivals, arrivals_rng)
        phones = visitors(len(arrivals_s), len(self.fleet), arrivals_rng)
        self._rng.seed(scenario.seed)
        conditions = [VisitConditions.drawn(scenario.phones, self._rng) for _ in arrivals_s]
        measured = MeasuredCalls(self.clock, self.measurements, scenario.phones.answer_timeout_s)
        bad = round(scenario.phones.hostile_share * len(self.fleet))
        # Bad phones do one thing after the other, so that each is done as often.
        act_numbers = np.cumsum(phones < bad) % len(ACTS)
        acts = tuple(ACTS)
        slow = scenario.slow_phones
        slow_until = bad + (round(slow.share * len(self.fleet)) if slow else 0)
        slow_from_s = slow.from_ratio * scenario.arrivals.duration_s if slow else float("inf")

        async def visit(index: int, due_at_s: float) -> None:
            phone, number = self.fleet[phones[index]], phones[index]
            if phone.is_visiting:
                self.measurements.endings["still busy"] += 1
                return
            phone.is_visiting = True
            try:
                await begin(phone, number, index, due_at_s)
            finally:
                phone.is_visiting = False

        async def begin(phone: PhoneState, number: int, index: int, due_at_s: float) -> None:
            if number < bad:
                await self._bad_phone(phone, replace(measured, suffix=BAD_PHONE)).run(
                    acts[act_numbers[index]], due_at_s
                )
                return
            upload_bytes_per_s, suffix = None, ""
            if slow is not None and due_at_s >= slow_from_s:
                is_slow = number < slow_until
                upload_bytes_per_s = slow.upload_bytes_per_s if is_slow else None
                suffix = SLOW if is_slow else BESIDE
            await Visit(
                phone,
                conditions[index],
                scenario.phones,
                self.population,
                self.delta_for,
                lambda: self._connect(upload_bytes_per_s),
                replace(measured, suffix=suffix),
            ).run(due_at_s)

        limits = RunLimits(scenario.max_visits_in_flight, scenario.drain_s)
        await run_open_loop(arrivals_s.tolist(), visit, self.clock, self.measurements, limits)

    def _connect(self, upload_bytes_per_s: float | None = None) -> AbstractAsyncContextManager[Connection]:
        return HttpConnection(self.next_url(), upload_bytes_per_s)

    def _bad_phone(self, phone: PhoneState, measured: MeasuredCalls) -> BadPhone:
        return BadPhone(
            phone,
            self.next_url(),
            self.scenario.phones.hostile_hold_s,
            self.delta_for,
            self._connect,
            measured,
            self._rng,
        )
