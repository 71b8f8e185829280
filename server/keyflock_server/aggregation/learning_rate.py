"""The server's learning rate by steps: a warm-up, and then constant, cosine or exponential.

A step is a closed round of this task; abandoned rounds do not count. The number of steps is stored with the
optimiser's state, so that a restart, or a day without phones, changes nothing.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine, here without restarts); Charles et al. 2021,
arXiv:2106.07820 (a server warm-up for large cohorts).
"""

import math
from typing import assert_never

from msgspec import UNSET, UnsetType

from keyflock_server.rounds.task import LearningRateSchedule


def rate_ratio(schedule: LearningRateSchedule, step: int) -> float:
    """Return the factor of the task's learning rate at a step, counted from 0; in [0, 1].

    Edge cases:
        warm-up of n -> steps 0 .. n-1 have 1/n, 2/n, .. 1; no step has 0
        cosine, after its end -> ``final_ratio``
    """
    if step < schedule.warmup_rounds:
        return (step + 1) / schedule.warmup_rounds
    since = step - schedule.warmup_rounds
    final = _or(schedule.final_ratio, 0.0)
    match schedule.name:
        case "constant":
            return 1.0
        case "cosine":
            progress = min(1.0, since / _or(schedule.decay_rounds, 1))
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "exponential":
            decayed = math.pow(_or(schedule.decay_ratio, 1.0), since / _or(schedule.decay_rounds, 1))
            return max(final, decayed)
        case _:
            assert_never(schedule.name)


def _or(value: float | UnsetType, default: float) -> float:
    return default if value is UNSET else value
