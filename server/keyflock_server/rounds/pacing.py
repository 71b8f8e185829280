"""When phones should return: soon enough that cohorts fill, late enough that nobody stampedes.

Stateless: windows follow from a few numbers that every replica knows. N devices were seen in a day, and the
task wants D check-ins a second; then each should return every T = N / D seconds. A large population spreads
over [0.5 T, 1.5 T]. A small one cannot fill a cohort by chance, so its phones meet: all are sent to the same
slot of the clock, and whoever comes while a slot is open is sent to the one that follows it.

Source: the idea is pace steering, Bonawitz et al. 2019, section 2.3; it gives no formula, this one is ours.
"""

import math

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.task import Pacing, RoundPolicy

#: Check-ins wanted for each slot: some that come are not eligible, or not sampled.
CHECK_INS_PER_SLOT = 1.5
#: A rendezvous is open for this share of its period.
_RENDEZVOUS_SHARE = 0.2
#: What the protocol can say: a year.
_LONGEST_S = 31_536_000.0


def return_window(
    policy: RoundPolicy, pacing: Pacing, active_devices: int, now_s: float, *, load: float = 0.0
) -> ReturnWindow:
    """When a phone that got no work should ask again.

    Args:
        policy: Of the round that is open or next.
        pacing: Bounds of the window.
        active_devices: Devices seen in the last 24 hours, N.
        now_s: Seconds since the epoch: places the rendezvous.
        load: How far the server is beyond its capacity; widens the window by 1 + load.
    Guarantees:
        pacing.min_s <= min_s <= max_s <= pacing.max_s, all of them times 1 + load; never more than a year.
    Edge cases:
        pacing.max_s below 2.5 times pacing.min_s -> a small population may miss its slot: the bound wins.
    """
    revisit_s = _revisit_s(policy, active_devices)
    if revisit_s >= policy.deadline_s:
        window = (0.5 * revisit_s, 1.5 * revisit_s)
    else:
        window = _rendezvous(pacing, now_s)
    low, high = (min(max(bound_s, pacing.min_s), pacing.max_s) * (1.0 + load) for bound_s in window)
    return _said(low, high)


def expected_arrivals(policy: RoundPolicy, pacing: Pacing, active_devices: int) -> float:
    """Devices that will check in during a round's selection window, if they keep to their return windows."""
    revisit_s = _revisit_s(policy, active_devices)
    if revisit_s < policy.deadline_s:
        return float(active_devices)  # they all meet at the next slot
    return active_devices * min(1.0, policy.selection_window_s / min(revisit_s, pacing.max_s))


def after_work(min_separation_s: float, pacing: Pacing) -> ReturnWindow:
    """When a phone that has contributed may come again: not before its separation has passed."""
    low = max(pacing.min_s, min_separation_s)
    return _said(low, low + pacing.min_s)


def no_task_window() -> ReturnWindow:
    """When a phone should ask again where nothing is to be done: in some hours."""
    return ReturnWindow(min_s=3_600.0, max_s=4 * 3_600.0)


def _revisit_s(policy: RoundPolicy, active_devices: int) -> float:
    """T = N / D: how often each device should come."""
    return active_devices * policy.deadline_s / (policy.slots * CHECK_INS_PER_SLOT)


def _rendezvous(pacing: Pacing, now_s: float) -> tuple[float, float]:
    """Seconds until the next common slot opens that is at least ``pacing.min_s`` away, and until it closes.

    The period is so much longer than ``pacing.min_s`` that from the last moment of an open slot the next one
    is just far enough: nobody skips a slot, and no two halves of a population miss each other for ever.
    """
    period_s = pacing.min_s / (1.0 - _RENDEZVOUS_SHARE)
    slot_s = math.ceil((now_s + pacing.min_s) / period_s) * period_s - now_s
    return slot_s, slot_s + _RENDEZVOUS_SHARE * period_s


def _said(low: float, high: float) -> ReturnWindow:
    return ReturnWindow(min_s=min(low, _LONGEST_S), max_s=min(max(low, high), _LONGEST_S))
