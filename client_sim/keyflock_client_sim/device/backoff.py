"""This module decides how long a device waits before it calls again."""

import random
from dataclasses import dataclass, field
from typing import Final

from keyflock_server.protocol.messages import ReturnWindow

#: How long a device goes on asking what became of a report that the server already has. Seconds.
MAX_PENDING_S: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The pauses of a device when the server does not say when to return."""

    #: The upper end of the first pause after a lost call.
    first_pause_s: float = 2.0
    #: No pause between two attempts is longer.
    max_pause_s: float = 600.0
    #: The pause after an error that a retry does not help: a person has to act first.
    permanent_failure_delay_s: float = 86_400.0
    #: The return window until the server names one.
    default_return_window: ReturnWindow = field(default_factory=lambda: ReturnWindow(min_s=60.0, max_s=600.0))
    #: The token is refreshed so long before it expires.
    refresh_margin_s: float = 300.0
    #: A model that arrives damaged is downloaded at most so often.
    max_damaged_downloads: int = 3


def pause_s(policy: RetryPolicy, failures: int, rng: random.Random) -> float:
    """Return the seconds until the next attempt, after so many failures in a row.

    Guarantees:
        Uniform in the upper half of [0, first x 2^(failures - 1)], and never beyond the longest pause: phones
        that lost their calls together do not come back together.
    Source:
        Brooker 2015, "Exponential Backoff And Jitter", the variant with equal jitter.
    """
    ceiling = min(policy.first_pause_s * 2.0 ** min(failures - 1, 30), policy.max_pause_s)
    return rng.uniform(ceiling / 2, ceiling)


def draw_within(window: ReturnWindow, rng: random.Random) -> float:
    """Draw a time uniformly from the window."""
    return rng.uniform(window.min_s, max(window.min_s, window.max_s))
