"""How long a device waits before it calls again."""

import random
from dataclasses import dataclass, field

from keyflock_server.protocol.messages import ReturnWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What a device does when the server says nothing about when to return."""

    #: Upper end of the first pause after a lost call.
    first_pause_s: float = 2.0
    #: No pause between two sendings is longer.
    longest_pause_s: float = 600.0
    #: After an answer that calling again will not help: a person has to act first.
    hopeless_s: float = 86_400.0
    #: A return window before the server has named one.
    rest: ReturnWindow = field(default_factory=lambda: ReturnWindow(min_s=60.0, max_s=600.0))
    #: The token is renewed so long before it expires.
    refresh_margin_s: float = 300.0
    #: How often a model that arrived damaged is downloaded again.
    max_damaged_downloads: int = 3


def pause_s(patience: Patience, failures: int, rng: random.Random) -> float:
    """Seconds until the next sending, after so many failures in a row.

    Guarantees:
        Uniform in the upper half of [0, first x 2^(failures - 1)], and never beyond the longest pause: phones
        that lost their calls together do not come back together.
    Source:
        Brooker 2015, "Exponential Backoff And Jitter", the variant with equal jitter.
    """
    ceiling = min(patience.first_pause_s * 2.0 ** min(failures - 1, 30), patience.longest_pause_s)
    return rng.uniform(ceiling / 2, ceiling)


def within(window: ReturnWindow, rng: random.Random) -> float:
    """A time in the window, drawn uniformly."""
    return rng.uniform(window.min_s, max(window.min_s, window.max_s))
