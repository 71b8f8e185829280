"""What is counted of check-ins, by the hour, and what that says: who is eligible, and when phones have time.

Two numbers a task and hour, over all phones: nothing here is about one of them. Every replica adds to the
same rows, so all of them pace and sample by the same figures.

Whoever can enrol can check in, so a device is believed as far as it has proven to be a phone that works: one
whose report was ever counted counts in full, all others together only up to a cap (docs/decisions/0042).

Source: Bonawitz et al. 2019, section 2.3: pace steering follows the diurnal swing of the active devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyflock_server.protocol.identifiers import TaskName

HOUR_S: Final = 3_600
#: Hours that are looked at for the hours of the day: two weeks.
HOURS_REMEMBERED: Final = 14 * 24
#: Hours that are looked at for who is eligible.
RECENT_HOURS: Final = 24
#: Nothing known: every hour is like every other.
EVEN: Final = (1.0,) * 24

#: Check-ins that say "all are eligible" before the first real one.
_PRIOR_CHECK_INS: Final = 10.0
#: Days that say "like every other hour" before the first real one.
_PRIOR_DAYS: Final = 1.0
_ENOUGH: Final = 50
#: Unproven devices count up to so many for each slot, however few have proven themselves: a new population
#: must start, and twice its slots are too few to be spread over the day.
_UNPROVEN_PER_SLOT: Final = 2
#: An hour counts as at most so much busier or quieter than the mean.
_LIMIT: Final = 4.0


@dataclass(frozen=True, slots=True)
class ArrivalCount:
    """One task's check-ins in one hour."""

    task: TaskName
    #: Hours since the epoch.
    hour: int
    check_ins: int
    #: Of these, phones that could have taken a slot.
    eligible: int


@dataclass(frozen=True, slots=True)
class ActiveDevices:
    """Devices of a population that have checked in lately."""

    #: Those whose report was counted, ever.
    proven: int = 0
    #: All others.
    unproven: int = 0

    @property
    def seen(self) -> int:
        """All of them."""
        return self.proven + self.unproven


def counted_devices(active: ActiveDevices, slots: int) -> int:
    """How many devices pacing and sampling reckon with: the proven ones, and the others up to a cap.

    Args:
        active: Who has checked in.
        slots: Devices that a round assigns.
    Guarantees:
        At least the proven ones; beyond them at most as many again, or twice ``slots``, whichever is more.
    """
    return active.proven + min(active.unproven, unproven_cap(active.proven, slots))


def unproven_cap(proven: int, slots: int) -> int:
    """How many unproven devices, or check-ins of theirs, count beside so many of proven ones."""
    return max(proven, _UNPROVEN_PER_SLOT * slots)


def hour_of(now_s: float) -> int:
    """Hours since the epoch."""
    return int(now_s // HOUR_S)


def eligible_share(counts: Sequence[ArrivalCount], now_s: float) -> float:
    """Of the check-ins of the last day, the share that could have taken a slot. In (0, 1].

    Edge cases:
        no check-ins yet -> 1: whom nobody has refused is expected to fit
    """
    recent = [one for one in counts if one.hour > hour_of(now_s) - RECENT_HOURS]
    check_ins = sum(one.check_ins for one in recent)
    eligible = sum(one.eligible for one in recent)
    return (eligible + _PRIOR_CHECK_INS) / (check_ins + _PRIOR_CHECK_INS)


def arrivals_per_s(counts: Sequence[ArrivalCount], now_s: float) -> float | None:
    """Check-ins a second, in this hour and the one before, of phones that could have taken a slot.

    Edge cases:
        fewer than 50 check-ins -> None: too few to go by
    """
    hour = hour_of(now_s)
    lately = [one for one in counts if one.hour >= hour - 1]
    if sum(one.check_ins for one in lately) < _ENOUGH:
        return None
    first = min(one.hour for one in lately)
    return sum(one.eligible for one in lately) / max(now_s - first * HOUR_S, 60.0)


def hours_of_day(counts: Sequence[ArrivalCount], now_s: float) -> tuple[float, ...]:
    """How busy each hour of the day (UTC) is, as a multiple of the mean hour.

    Hours without a row between the first and the last are hours without a check-in. The hour that has not
    ended yet says nothing.

    Guarantees:
        24 numbers in [1/4, 4]; all 1 while less than an hour is known.
    """
    by_hour: dict[int, int] = {}
    for one in counts:
        if one.hour < hour_of(now_s):
            by_hour[one.hour] = by_hour.get(one.hour, 0) + one.check_ins
    total = sum(by_hour.values())
    if total == 0:
        return EVEN
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
