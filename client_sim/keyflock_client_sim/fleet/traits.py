"""The traits of one phone; they never change."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_client_sim.fleet.profiles import FleetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One phone's speed, network, hours and failure rates; drawn once."""

    #: Seconds of training on one sequence.
    seconds_per_example: float
    up_bytes_s: float
    down_bytes_s: float
    latency_s: float
    loss_share: float
    call_timeout_s: float
    metered_share: float
    metered_budget_bytes: int | None
    is_slow: bool
    drop_out_share: float
    silent_share: float
    absence_s: float
    #: Hour of the phone's day at which it becomes idle, in [0, 24).
    idle_from_h: float
    #: How long it is idle; 24 is always.
    idle_hours: float
    starts_at_s: float
    app_build: int
    locale: str
    tier: int
    tags: tuple[str, ...]
    words_a_day: float
    #: Days with typing before the simulation began.
    days_of_text: float
    free_storage_bytes: int
    is_opted_in: bool

    def train_s(self, sequences: int) -> float:
        """Return how long training on so many sequences takes."""
        return self.seconds_per_example * sequences

    def to_server_s(self, size_bytes: int) -> float:
        """Return how long a body takes to the server."""
        return self.latency_s / 2 + size_bytes / self.up_bytes_s

    def from_server_s(self, size_bytes: int) -> float:
        """Return how long a body takes from the server."""
        return self.latency_s / 2 + size_bytes / self.down_bytes_s


def draw_traits(profile: FleetProfile, rng: random.Random) -> Traits:
    """Draw the traits of a phone of this population; always with the same number of draws."""
    network = rng.lognormvariate(0.0, profile.network_spread)
    return Traits(
        seconds_per_example=profile.seconds_per_example * rng.lognormvariate(0.0, profile.speed_spread),
        up_bytes_s=profile.up_bytes_s * network,
        down_bytes_s=profile.down_bytes_s * network,
        latency_s=profile.latency_s / network,
        loss_share=profile.loss_share,
        call_timeout_s=profile.call_timeout_s,
        metered_share=profile.metered_share,
        metered_budget_bytes=profile.metered_budget_bytes,
        is_slow=profile.up_bytes_s * network < profile.slow_below_bytes_s,
        drop_out_share=profile.drop_out_share,
        silent_share=profile.silent_share,
        absence_s=profile.absence_s,
        idle_from_h=rng.gauss(profile.idle_from_h, profile.idle_spread_h) % 24.0,
        idle_hours=_hours(rng.gauss(profile.idle_hours, profile.idle_spread_h), profile.idle_hours),
        starts_at_s=rng.uniform(0.0, profile.ramp_s),
        app_build=int(_by_share(profile.app_builds, rng)),
        locale=_by_share(profile.locales, rng),
        tier=int(_by_share(profile.tiers, rng)),
        tags=tuple(tag for tag, share in profile.tags.items() if rng.random() < share),
        words_a_day=profile.words_a_day * rng.lognormvariate(0.0, profile.words_spread),
        days_of_text=rng.expovariate(1.0 / profile.days_of_text),
        free_storage_bytes=int(profile.free_storage_bytes * rng.lognormvariate(0.0, profile.storage_spread)),
        is_opted_in=rng.random() < profile.opt_in_share,
    )


def _hours(drawn: float, mean: float) -> float:
    """Clamp the hours: a phone that is always idle stays so, and any other has at least half an hour."""
    return 24.0 if mean >= 24.0 else min(max(drawn, 0.5), 24.0)


def _by_share(shares: Mapping[str, float], rng: random.Random) -> str:
    names = tuple(shares)
    return rng.choices(names, weights=tuple(shares.values()))[0]
