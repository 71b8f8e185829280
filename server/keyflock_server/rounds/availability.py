"""Counts of check-ins by the hour, and estimates from them: how many are eligible, and when phones come.

There are two numbers for each task and hour, over all phones: none is about a single phone. Every replica
adds to the same rows, so all of them pace and sample by the same figures.

Anything that can enrol can check in, so only proven devices count in full, those with a counted report; all
others together count only up to a cap (docs/decisions/0042).

Source: Bonawitz et al. 2019, section 2.3: pace steering follows the diurnal swing of the active devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyflock_server.protocol.identifiers import TaskName

HOUR_S: Final = 3_600
#: Number of hours for the estimate of the hours of the day: two weeks.
HOURS_REMEMBERED: Final = 14 * 24
#: Number of hours for the estimate of the eligible share.
RECENT_HOURS: Final = 24
#: The hours of the day before anything is known: all alike.
UNIFORM_HOURS: Final = (1.0,) * 24

#: Weight of the prior "all are eligible", in check-ins.
_PRIOR_CHECK_INS: Final = 10.0
#: Weight of the prior "all hours are alike", in days.
_PRIOR_DAYS: Final = 1.0
_MIN_CHECK_INS: Final = 50
#: Number of unproven devices for each slot that always count: a new population must start, and twice its
#: slots are too few to be spread over the day.
_UNPROVEN_PER_SLOT: Final = 2
#: Maximum ratio of an hour to the mean, up and down.
_LIMIT: Final = 4.0


@dataclass(frozen=True, slots=True)
class ArrivalCount:
    """One task's check-ins in one hour."""

    task: TaskName
    #: Hours since the epoch.
    hour: int
    check_ins: int
    #: Number of these from phones that could have taken a slot.
    eligible: int


@dataclass(frozen=True, slots=True)
class ActiveDevices:
    """Numbers of a population's devices that have checked in lately."""

    #: Devices with a counted report.
    proven: int = 0
    #: All others.
    unproven: int = 0

    @property
    def seen(self) -> int:
        """Return the number of all of them."""
        return self.proven + self.unproven


def counted_devices(active: ActiveDevices, slots: int) -> int:
    """Return how many devices pacing and sampling count: the proven ones, and the others up to a cap.

    Args:
        active: Devices that have checked in.
        slots: Number of devices that a round assigns.
    Guarantees:
        At least the proven ones; beyond them at most as many again, or twice ``slots``, whichever is more.
    """
    return active.proven + min(active.unproven, unproven_cap(active.proven, slots))


def unproven_cap(proven: int, slots: int) -> int:
    """Return how many unproven devices, or their check-ins, count beside so many proven ones."""
    return max(proven, _UNPROVEN_PER_SLOT * slots)


def hour_of(now_s: float) -> int:
    """Return the hours since the epoch."""
    return int(now_s // HOUR_S)


def eligible_share(counts: Sequence[ArrivalCount], now_s: float) -> float:
    """Return the eligible share of the last day's check-ins, in (0, 1].

    Edge cases:
        no check-ins yet -> 1
    """
    recent = [one for one in counts if one.hour > hour_of(now_s) - RECENT_HOURS]
    check_ins = sum(one.check_ins for one in recent)
    eligible = sum(one.eligible for one in recent)
    return (eligible + _PRIOR_CHECK_INS) / (check_ins + _PRIOR_CHECK_INS)


def arrivals_per_s(counts: Sequence[ArrivalCount], now_s: float) -> float | None:
    """Return the eligible check-ins a second in this hour and the one before.

    Edge cases:
        fewer than 50 check-ins -> None: too few for an estimate
    """
    hour = hour_of(now_s)
    lately = [one for one in counts if one.hour >= hour - 1]
    if sum(one.check_ins for one in lately) < _MIN_CHECK_INS:
        return None
    first = min(one.hour for one in lately)
    return sum(one.eligible for one in lately) / max(now_s - first * HOUR_S, 60.0)


def hours_of_day(counts: Sequence[ArrivalCount], now_s: float) -> tuple[float, ...]:
    """Return how busy each hour of the day (UTC) is, as a multiple of the mean hour.

    Hours without a row between the first and the last are hours without a check-in. The current hour is left
    out.

    Guarantees:
        24 numbers in [1/4, 4]; all 1 while less than an hour is known.
    """
    by_hour: dict[int, int] = {}
    for one in counts:
        if one.hour < hour_of(now_s):
            by_hour[one.hour] = by_hour.get(one.hour, 0) + one.check_ins
    total = sum(by_hour.values())
    if total == 0:
        return UNIFORM_HOURS
    first, last = max(min(by_hour), hour_of(now_s) - HOURS_REMEMBERED), hour_of(now_s) - 1
    mean = total / (last - first + 1)
    sums, days = [0.0] * 24, [0] * 24
    for hour in range(first, last + 1):
        sums[hour % 24] += by_hour.get(hour, 0)
        days[hour % 24] += 1
    return tuple(
        min(max((sums[hour] / mean + _PRIOR_DAYS) / (days[hour] + _PRIOR_DAYS), 1.0 / _LIMIT), _LIMIT)
        for hour in range(24)
    )
