"""Pace steering: when phones should return, so that cohorts fill and check-ins do not come all at once.

It is stateless: windows follow from a few numbers that every replica has. E eligible devices were seen in a
day, and the task needs D check-ins a second to fill its slots within a selection window; so each device
should return every T = E / D seconds. A large population spreads over [0.5 T, 1.5 T], later in busy hours and
sooner in quiet ones; T is limited so that this interval fits under the longest window, because a window that
is cut to a point spreads nothing. A small population cannot fill a cohort by chance, so its phones meet: all
are sent to the same times of the clock, and a phone that comes while a meeting is open is sent to the next
one. In the middle of a long round that has all its phones they meet less often (docs/decisions/0046).

Devices that have never reported count only up to a cap, so that fake devices cannot move others' windows. A
crowd of them may be real, as after an app update: however few of them count, all seen devices are spread so
far that no more than ``CROWD_PER_S`` come a second.

While a round only waits for reports, check-ins are sampled for the round after it, and a device in its sample
is told to come when it opens (docs/decisions/0018).

Source: the idea is pace steering, Bonawitz et al. 2019, section 2.3; it gives no formula, this one is ours.
"""

import math
from collections.abc import Sequence
from typing import Final

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.availability import HOUR_S, UNIFORM_HOURS
from keyflock_server.rounds.task import Pacing, RoundPolicy

#: Check-ins needed for each slot: some are not sampled, or come too late.
CHECK_INS_PER_SLOT: Final = 1.5
#: Check-ins a second of one population beyond which all its phones are spread. One process answers several
#: times as many.
CROWD_PER_S: Final = 100.0
#: Beyond this load a check-in is refused before anything is read for it.
SHED_LOAD: Final = 1.0
#: Windows reach from 2 minus this times T to this times T.
_SPREAD: Final = 1.5
#: A meeting is open for this share of its period.
_MEETING_SHARE: Final = 0.2
#: Below this many devices for each slot a population is small, however long its rounds select.
_FEW_PER_SLOT: Final = 4.0
#: A waiting phone of a small population rests for this share of the time before and behind it.
_REST_SHARE: Final = 0.25
#: A device in the next round's sample comes within this share of its selection window.
_AIM_SHARE: Final = 0.25
#: The longest window of the protocol: a year.
_LONGEST_S: Final = 31_536_000.0
#: At this lag the event loop is at its limit.
_LAG_AT_LIMIT_S: Final = 0.5
_MAX_LOAD: Final = 9.0


def return_window(
    policy: RoundPolicy,
    pacing: Pacing,
    eligible_devices: float,
    now_s: float,
    *,
    load: float = 0.0,
    hours: Sequence[float] = UNIFORM_HOURS,
    seen_devices: float = 0.0,
) -> ReturnWindow:
    """Return when a phone that got no work should ask again.

    Args:
        policy: The policy of the open or next round.
        pacing: Bounds of the window.
        eligible_devices: Number of eligible devices seen in the last 24 hours, E.
        now_s: Seconds since the epoch, for the meetings and the hour of the day.
        load: How far the server is beyond its capacity; widens the window by 1 + load.
        hours: How busy each hour of the day is, as a multiple of the mean hour.
        seen_devices: Number of all devices seen in the last 24 hours, with those that do not count.
    Guarantees:
        pacing.min_s <= min_s <= max_s <= pacing.max_s, all of them times 1 + load; never more than a year.
    Edge cases:
        pacing.max_s below 2.5 times pacing.min_s -> a small population may miss its meeting: the bound wins.
    """
    crowd_s = _crowd_s(pacing, seen_devices)
    if not meets(policy, pacing, eligible_devices, seen_devices):
        revisit_s = max(_revisit_s(policy, eligible_devices), crowd_s)
        # At the hour in which the phone would return; what arrives then is the hour's multiple of 1 / T.
        revisit_s *= hours[int((now_s + min(revisit_s, pacing.max_s)) // HOUR_S) % 24]
        revisit_s = min(revisit_s, pacing.max_s / _SPREAD)
        window = ((2.0 - _SPREAD) * revisit_s, _SPREAD * revisit_s)
    else:
        window = _next_meeting(pacing, now_s, pacing.min_s)
    return _bounded(window, pacing, load)


def next_round_window(
    policy: RoundPolicy,
    pacing: Pacing,
    eligible_devices: float,
    now_s: float,
    *,
    opens_in_s: float,
    load: float = 0.0,
) -> ReturnWindow:
    """Return when a phone that waits for the next round should come: as that round opens.

    Args:
        policy: As in ``return_window``.
        pacing: Bounds of the window.
        eligible_devices: Number of eligible devices, E.
        now_s: Seconds since the epoch.
        opens_in_s: Expected time until the next round opens; below 0, it is late.
        load: How far the server is beyond its capacity.
    Guarantees:
        Those of ``return_window``; the window is never later than the first meeting, or the first part
        of the selection window, that ``opens_in_s`` and the bounds allow.
    """
    if is_large(policy, eligible_devices):
        low = max(opens_in_s, pacing.min_s)
        window = (low, low + _AIM_SHARE * policy.selection_window_s)
    else:
        window = _next_meeting(pacing, now_s, max(opens_in_s, pacing.min_s))
    return _bounded(window, pacing, load)


def rest_s(opens_in_s: float, open_for_s: float) -> float:
    """Return how long a phone of a small population may rest while a round has all its phones.

    Rounds differ in length. After a quarter of the time to the next opening, and of the time that the round
    has lasted, a phone comes again: so it comes seldom in the middle of a long round, and the next round
    waits for it no longer than an eighth of a usual one.

    Args:
        opens_in_s: Expected time until the next round opens; below 0, it is late.
        open_for_s: Time since this round opened.
    """
    return _REST_SHARE * max(0.0, min(opens_in_s, open_for_s))


def expected_arrivals(
    policy: RoundPolicy,
    pacing: Pacing,
    eligible_devices: float,
    *,
    cycle_s: float = 0.0,
    present_devices: float = math.inf,
    observed_per_s: float | None = None,
) -> float:
    """Return the expected number of eligible devices that check in for a round.

    Args:
        policy: The round's policy.
        pacing: Bounds of the windows.
        eligible_devices: Number of eligible devices, E.
        cycle_s: Time from one opening to the next: devices that come while the round before is full are
            sampled for this one. 0 for a task's first round.
        present_devices: Number of these seen within the hour; in a small population all of them come.
        observed_per_s: The observed arrivals a second in a large one; None assumes that all devices keep to
            their windows.
    """
    if not is_large(policy, eligible_devices):
        return float(min(eligible_devices, present_devices))  # they all come to the next meeting
    revisit_s = max(min(_revisit_s(policy, eligible_devices), pacing.max_s / _SPREAD), pacing.min_s)
    per_s = eligible_devices / revisit_s if observed_per_s is None else observed_per_s
    return min(eligible_devices, per_s * max(policy.selection_window_s, cycle_s))


def is_large(policy: RoundPolicy, eligible_devices: float) -> bool:
    """Return whether so many devices fill a cohort without meeting."""
    is_few = eligible_devices < _FEW_PER_SLOT * policy.slots
    return not is_few and _revisit_s(policy, eligible_devices) >= policy.deadline_s


def meets(policy: RoundPolicy, pacing: Pacing, eligible_devices: float, seen_devices: float = 0.0) -> bool:
    """Return whether the population's phones meet: they are few, and are not in a crowd that is spread."""
    return not is_large(policy, eligible_devices) and not is_crowd(pacing, seen_devices)


def meeting_period_s(pacing: Pacing) -> float:
    """Return the time from one meeting of a small population to the next.

    It is so much longer than ``pacing.min_s`` that from the last moment of an open meeting the next one is
    just far enough: no phone skips one, and no two halves of a population miss each other for ever.
    """
    return pacing.min_s / (1.0 - _MEETING_SHARE)


def after_work(min_separation_s: float, pacing: Pacing, *, spread_s: float = 0.0) -> ReturnWindow:
    """Return when a phone that has contributed may come again: after its separation has passed.

    Args:
        min_separation_s: The task's minimum separation.
        pacing: Bounds of the window, which the separation may exceed.
        spread_s: The time over which a cohort that finished together is spread; at least ``pacing.min_s``.
    """
    low = max(pacing.min_s, min_separation_s)
    return _window(low, low + min(max(pacing.min_s, spread_s), pacing.max_s))


def first_visit(spread_s: float) -> ReturnWindow:
    """Return when a phone that has just enrolled should check in: at once, or spread like all others.

    Args:
        spread_s: The interval at which each device of its population comes; 0 where they meet.
    """
    return _window(0.0, max(1.0, spread_s))


def spread_s(
    policy: RoundPolicy, pacing: Pacing, eligible_devices: float, seen_devices: float = 0.0
) -> float:
    """Return the time over which phones that come together are spread; 0 for a small population."""
    if meets(policy, pacing, eligible_devices, seen_devices):
        return 0.0
    return min(max(_revisit_s(policy, eligible_devices), _crowd_s(pacing, seen_devices)), pacing.max_s)


def is_crowd(pacing: Pacing, seen_devices: float) -> bool:
    """Return whether so many devices were seen that they are spread, however few of them count."""
    return _crowd_s(pacing, seen_devices) > 0.0


def no_task_window() -> ReturnWindow:
    """Return when a phone should ask again where there is no task: in some hours."""
    return ReturnWindow(min_s=3_600.0, max_s=4 * 3_600.0)


def overload(in_flight: int, capacity: int, lag_s: float) -> float:
    """Return how far a server is beyond its capacity: 0 up to it, 1 at twice as much, at most 9.

    Args:
        in_flight: Number of requests being read or answered.
        capacity: Number of requests that the server can handle.
        lag_s: The lag of the event loop.
    """
    return min(max(0.0, 2.0 * in_flight / capacity - 1.0, lag_s / _LAG_AT_LIMIT_S - 1.0), _MAX_LOAD)


def _revisit_s(policy: RoundPolicy, eligible_devices: float) -> float:
    """Return T = E / D, the interval at which each device should come."""
    return eligible_devices * policy.selection_window_s / (policy.slots * CHECK_INS_PER_SLOT)


def _crowd_s(pacing: Pacing, seen_devices: float) -> float:
    """Return the minimum interval of each of so many devices; 0 where they are no crowd."""
    revisit_s = seen_devices / CROWD_PER_S
    return revisit_s if revisit_s > pacing.min_s else 0.0


def _next_meeting(pacing: Pacing, now_s: float, not_before_s: float) -> tuple[float, float]:
    """Return the seconds until a meeting opens that is at least so far away, and until it closes."""
    period_s = meeting_period_s(pacing)
    opens_in_s = math.ceil((now_s + not_before_s) / period_s) * period_s - now_s
    return opens_in_s, opens_in_s + _MEETING_SHARE * period_s


def _bounded(window: tuple[float, float], pacing: Pacing, load: float) -> ReturnWindow:
    low, high = (min(max(bound_s, pacing.min_s), pacing.max_s) * (1.0 + load) for bound_s in window)
    return _window(low, high)


def _window(low: float, high: float) -> ReturnWindow:
    return ReturnWindow(min_s=min(low, _LONGEST_S), max_s=min(max(low, high), _LONGEST_S))
