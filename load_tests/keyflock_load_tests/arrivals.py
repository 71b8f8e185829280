"""Arrivals are drawn before the run, so that a slow server cannot slow its own load down.

The times are a Poisson process whose rate is a day's sine wave. Because they are fixed in advance, latency
can be counted from the instant at which a call was due, and the waiting that a stalled server causes is in
the figures (no coordinated omission).

Source: Lewis and Shedler 1979, Simulation of nonhomogeneous Poisson processes by thinning; Tene, How not to
measure latency.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keyflock_load_tests.scenario import ArrivalPlan


def rate_per_s(plan: ArrivalPlan, at_s: ArrayLike) -> NDArray[np.float64]:
    """Return the expected arrivals a second: the day's start is the trough, its middle the peak."""
    phase = 2.0 * math.pi * plan.days / plan.duration_s * np.asarray(at_s, np.float64)
    rate: NDArray[np.float64] = plan.mean_rate_per_s * (1.0 - plan.diurnal_swing_ratio * np.cos(phase))
    return rate


def arrival_times(plan: ArrivalPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return sorted arrival instants in seconds since the start, all in [0, plan.duration_s).

    Guarantees:
        Arrivals in disjoint intervals are independent; the expected number in an interval is the integral of
        ``rate_per_s`` over it. The same generator state gives the same times.
    """
    peak = plan.mean_rate_per_s * (1.0 + plan.diurnal_swing_ratio)
    candidates = np.sort(rng.uniform(0.0, plan.duration_s, rng.poisson(peak * plan.duration_s)))
    return candidates[rng.uniform(0.0, peak, candidates.size) < rate_per_s(plan, candidates)]


def visitors(arrivals: int, fleet_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return which phone each arrival is: the whole fleet in a shuffled order, then again in another one.

    A phone thus returns only after about fleet_size arrivals, as pace steering would have it.
    """
    laps = -(-arrivals // fleet_size) if arrivals else 0
    order = [rng.permutation(fleet_size) for _ in range(laps)]
    return np.concatenate(order)[:arrivals] if order else np.empty(0, np.int64)
