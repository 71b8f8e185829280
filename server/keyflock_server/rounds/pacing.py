"""When phones should return: soon enough that cohorts fill, late enough that nobody stampedes.

Stateless: windows follow from a few numbers that every replica knows. N devices were seen in a day, and the
task wants D check-ins a second; then each should return every T = N / D seconds. A large population spreads
over [0.5 T, 1.5 T]. A small one cannot fill a cohort by chance, so its phones meet: all are sent to the same
next slot of the clock.

Source: the idea is pace steering, Bonawitz et al. 2019, section 2.3; it gives no formula, this one is ours.
"""

import math

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.task import Pacing, RoundPolicy

#: Check-ins wanted for each slot: some that come are not eligible, or not sampled.
CHECK_INS_PER_SLOT = 1.5
#: A rendezvous is open for this share of its period.
_RENDEZVOUS_SHARE = 0.2


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
        pacing.min_s <= min_s <= max_s; max_s is at most pacing.max_s times 1 + load.
    """
    revisit_s = _revisit_s(policy, active_devices)
    if revisit_s >= policy.deadline_s:
        window = (0.5 * revisit_s, 1.5 * revisit_s)
    else:
        window = _rendezvous(pacing, now_s)
    widen = 1.0 + load
    low = min(max(window[0], pacing.min_s), pacing.max_s) * widen
    high = min(max(window[1], pacing.min_s), pacing.max_s) * widen
    return ReturnWindow(min_s=low, max_s=max(low, high))


def expected_arrivals(policy: RoundPolicy, pacing: Pacing, active_devices: int) -> float:
    """Devices that will check in during a round's selection window, if they keep to their return windows."""
    revisit_s = _revisit_s(policy, active_devices)
    if revisit_s < policy.deadline_s:
        return float(active_devices)  # they all meet at the next slot
    return active_devices * min(1.0, policy.selection_window_s / min(revisit_s, pacing.max_s))


def after_work(min_separation_s: float, pacing: Pacing) -> ReturnWindow:
    """When a phone that has contributed may come again: not before its separation has passed."""
    low = max(pacing.min_s, min_separation_s)
    return ReturnWindow(min_s=low, max_s=low + pacing.min_s)


def no_task_window() -> ReturnWindow:
    """When a phone should ask again where nothing is to be done: in some hours."""
    return ReturnWindow(min_s=3_600.0, max_s=4 * 3_600.0)


def _revisit_s(policy: RoundPolicy, active_devices: int) -> float:
    """T = N / D: how often each device should come."""
    return active_devices * policy.deadline_s / (policy.slots * CHECK_INS_PER_SLOT)


def _rendezvous(pacing: Pacing, now_s: float) -> tuple[float, float]:
    """Seconds until the next common slot opens, and until it closes."""
    period_s = pacing.min_s
    earliest_s = now_s + 0.5 * period_s
    slot_s = math.ceil(earliest_s / period_s) * period_s - now_s
    return slot_s, slot_s + _RENDEZVOUS_SHARE * period_s
