"""A phone is idle and charging for one stretch of hours a day, the same every day."""

from typing import Final

from keyflock_client_sim.fleet.traits import Traits

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0


def next_idle_s(traits: Traits, at_s: float) -> float:
    """Return the first time from ``at_s`` on at which the phone is idle and charging.

    Args:
        traits: The phone's traits.
        at_s: Seconds since a midnight.
    Edge cases:
        idle at ``at_s`` -> ``at_s``; a stretch over midnight goes on into the next day
    """
    if traits.idle_hours >= 24.0:
        return at_s
    since_beginning_s = (at_s - traits.idle_from_h * HOUR_S) % DAY_S
    if since_beginning_s < traits.idle_hours * HOUR_S:
        return at_s
    return at_s + DAY_S - since_beginning_s
