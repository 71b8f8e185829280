"""The failures of a phone: lost calls, and its user coming back in the middle of an assignment."""

import random
from dataclasses import dataclass
from enum import Enum

from keyflock_client_sim.fleet.traits import Traits


class CallLoss(Enum):
    """The part of a call that gets lost."""

    #: The server never receives the request.
    REQUEST = "request"
    #: The server has acted, and the phone does not know.
    RESPONSE = "answer"


@dataclass(frozen=True, slots=True)
class DropOut:
    """The phone's user comes back while it trains."""

    #: The interruption comes after this share of the training time.
    after_ratio: float
    #: The phone can report it, or go on, only so much later.
    away_s: float


def draw_call_loss(traits: Traits, rng: random.Random) -> CallLoss | None:
    """Draw whether the next call gets lost, and which part of it."""
    is_lost, is_answer = rng.random() < traits.loss_share, rng.random() < 0.5
    if not is_lost:
        return None
    return CallLoss.RESPONSE if is_answer else CallLoss.REQUEST


def draw_drop_out(traits: Traits, rng: random.Random) -> DropOut | None:
    """Draw whether the next training is interrupted, and how; always with the same number of draws."""
    drops_out, is_silent = rng.random() < traits.drop_out_share, rng.random() < traits.silent_share
    after_ratio, away_s = rng.random(), rng.expovariate(1.0) * traits.absence_s
    return DropOut(after_ratio, away_s if is_silent else 0.0) if drops_out else None
