"""The pace of a task at one moment: windows and probabilities that are the same for all of its phones.

They are computed once a second at most, from counts that the passes have read; a check-in only looks them up.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.rounds.availability import UNIFORM_HOURS, ActiveDevices, counted_devices
from keyflock_server.rounds.pacing import (
    CROWD_PER_S,
    expected_arrivals,
    is_crowd,
    meeting_period_s,
    meets,
    next_round_window,
    rest_s,
    return_window,
)
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.selection import meeting_probability, meeting_window_s, sampling_probability
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.tuning import RoundHistory, typical_duration_s, usual_cycle_s


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """The statistics of a task's arriving phones, as they were read last."""

    #: Devices seen within a day, and within an hour.
    day: ActiveDevices = ActiveDevices()  # noqa: RUF009 - frozen
    hour: ActiveDevices = ActiveDevices()  # noqa: RUF009 - frozen
    #: Eligible share of the check-ins.
    share: float = 1.0
    hours: tuple[float, ...] = UNIFORM_HOURS
    #: Eligible check-ins a second; None while there were too few.
    per_s: float | None = None
    #: The last rounds, without their assignments.
    history: RoundHistory = RoundHistory()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class RoundSampling:
    """What decides a round's sampling probability; it stays, so that the probability only rises."""

    round_id: RoundId
    #: Number of eligible devices that are expected.
    expected: float
    #: Whether the population is small, so that its phones meet.
    is_small: bool
    #: Time after which every eligible device is taken.
    window_s: float


class TaskPace:
    """Windows and probabilities of one task at one moment.

    Args:
        spec: The task.
        current: Its open round, or None.
        stats: Its statistics.
        now: The moment.
        load: How far the server is beyond its capacity.
    """

    def __init__(
        self, spec: TaskSpec, current: Round | None, stats: ArrivalStats, now: datetime, load: float
    ) -> None:
        self._spec = spec
        self._current = current
        self._stats = stats
        self._now, self._now_s = now, now.timestamp()
        self._load = load
        # The open round's policy, whose numbers may be tuned; else the task's own.
        self._policy = (spec if current is None else current.spec).round
        self.eligible_devices = self._eligible(stats.day)
        #: All devices that came within a day, even if few of them count.
        self.seen_devices = float(stats.day.seen)
        #: The probability that an eligible device is in the open round's sample; 0 without a round.
        self.probability = 0.0

    @cached_property
    def meets(self) -> bool:
        """Whether the population is small, so that its phones meet."""
        return meets(self._policy, self._spec.pacing, self.eligible_devices, self.seen_devices)

    @cached_property
    def window(self) -> ReturnWindow:
        """When a phone without work should check in again."""
        return return_window(
            self._policy,
            self._spec.pacing,
            self.eligible_devices,
            self._now_s,
            load=self._load,
            hours=self._stats.hours,
            seen_devices=self.seen_devices,
        )

    @cached_property
    def meeting_window(self) -> ReturnWindow:
        """When a phone of a small population should come while a round has its phones."""
        current = self._current
        open_for_s = 0.0 if current is None else self._now_s - current.opened_at.timestamp()
        return self._window_from(rest_s(self._next_opens_in_s, open_for_s))

    @cached_property
    def next_round_window(self) -> ReturnWindow:
        """When a phone in the next round's sample should check in."""
        return self._window_from(self._next_opens_in_s)

    @cached_property
    def not_sampled(self) -> Refusal:
        """The answer to a phone that is not in the round's sample."""
        return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=self.window)

    @cached_property
    def next_round_probability(self) -> float:
        """The probability that an eligible device is in the sample of the round after the open one."""
        return sampling_probability(self._policy.slots, self._expected_devices_next, 0.0, 1.0)

    def draw_sample(self, current: Round, sampling: RoundSampling) -> None:
        """Compute the probability that an eligible device is in the open round's sample now."""
        if current.is_async:
            # Slots become free one by one, each for the next device: sampling would leave them empty.
            self.probability = 1.0
            return
        elapsed_s = (self._now - current.opened_at).total_seconds()
        probability = meeting_probability if sampling.is_small else sampling_probability
        self.probability = probability(
            current.spec.round.slots, sampling.expected, elapsed_s, sampling.window_s
        )

    def sampling(self, current: Round) -> RoundSampling:
        """Return what decides the open round's probability, as it would be decided now."""
        window_s = current.spec.round.selection_window_s
        if self.meets:
            window_s = meeting_window_s(window_s, meeting_period_s(self._spec.pacing))
        # Phones that came while the round before was full were sampled for this one.
        cycle_s = self._cycle_s if self._stats.history.durations_s else 0.0
        return RoundSampling(current.id, self._arrivals(cycle_s), self.meets, window_s)

    @cached_property
    def _expected_devices_next(self) -> float:
        """How many eligible devices are expected for the round after the open one."""
        arrivals = self._arrivals(self._cycle_s)
        if is_crowd(self._spec.pacing, self.seen_devices):
            # Even if few of them count, they must not all be called to the next opening.
            arrivals = max(arrivals, min(self.seen_devices, CROWD_PER_S * self._cycle_s))
        return arrivals

    def _arrivals(self, cycle_s: float) -> float:
        return expected_arrivals(
            self._policy,
            self._spec.pacing,
            self.eligible_devices,
            cycle_s=cycle_s,
            present_devices=self._eligible(self._stats.hour),
            observed_per_s=self._stats.per_s,
        )

    def _window_from(self, opens_in_s: float) -> ReturnWindow:
        return next_round_window(
            self._policy,
            self._spec.pacing,
            self.eligible_devices,
            self._now_s,
            opens_in_s=opens_in_s,
            load=self._load,
        )

    @property
    def _next_opens_in_s(self) -> float:
        typical_s = typical_duration_s(self._stats.history)
        current = self._current
        if current is None or typical_s is None:
            return 0.0
        ends_at = min(current.opened_at + timedelta(seconds=typical_s), current.deadline_at)
        return (ends_at - self._now).total_seconds()

    @cached_property
    def _cycle_s(self) -> float:
        return usual_cycle_s(self._policy, self._stats.history)

    def _eligible(self, active: ActiveDevices) -> float:
        return counted_devices(active, self._policy.slots) * self._stats.share
