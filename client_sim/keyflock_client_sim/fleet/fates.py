"""What befalls a phone: lost calls, and its person coming back in the middle of an assignment."""

import random
from dataclasses import dataclass
from enum import Enum

from keyflock_client_sim.fleet.traits import Traits


class Loss(Enum):
    """Where on its way a call gets lost."""

    #: The server never hears of it.
    REQUEST = "request"
    #: The server has acted, and the phone does not know.
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class DropOut:
    """The phone's person comes back while it trains."""

    #: After this share of the time that training would have taken.
    after_ratio: float
    #: The phone can say so, or go on, only so much later.
    away_s: float


def loss(traits: Traits, rng: random.Random) -> Loss | None:
    """Whether the next call gets lost, and where."""
    is_lost, is_answer = rng.random() < traits.loss_share, rng.random() < 0.5
    if not is_lost:
        return None
    return Loss.ANSWER if is_answer else Loss.REQUEST


def drop_out(traits: Traits, rng: random.Random) -> DropOut | None:
    """Whether the next training is interrupted, and how; always the same number of draws."""
    drops_out, is_silent = rng.random() < traits.drop_out_share, rng.random() < traits.silent_share
    after_ratio, away_s = rng.random(), rng.expovariate(1.0) * traits.absence_s
    return DropOut(after_ratio, away_s if is_silent else 0.0) if drops_out else None
