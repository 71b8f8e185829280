"""The measurement from users to figures: other users' prior first, then those who are measured."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyflock_client_sim.measuring.scorers import PublishedModel
from keyflock_client_sim.personalising.figures import Personalisation, mean_weights
from keyflock_client_sim.personalising.jobs import PersonaliseUsers
from keyflock_client_sim.personalising.typist import UserFigures
from keyflock_client_sim.personalising.users import UserMessages
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN

#: Users a job: small, so that progress moves and the last job is no long wait.
_USERS_A_JOB: Final = 4


@dataclass(frozen=True, slots=True)
class Priors:
    """What is believed of a user before a word was typed."""

    blend: BlendPrior = DEFAULT_BLEND
    gain: GainPrior = DEFAULT_GAIN


async def measure(
    pool: WorkerPool,
    model: PublishedModel,
    users: Sequence[UserMessages],
    priors: Priors,
    *,
    compares_heads: bool = False,
    on_progress: Callable[[int, int], None],
) -> Personalisation:
    """Every user's figures.

    Args:
        pool: Does it.
        model: The trunk, as published to the pool.
        users: Cut in time.
        priors: For all of them.
        compares_heads: Whether the head's alternatives are arms as well.
        on_progress: Told how many of how many users are done.
    """
    shares = [tuple(users[at : at + _USERS_A_JOB]) for at in range(0, len(users), _USERS_A_JOB)]
    done = 0

    async def run(share: tuple[UserMessages, ...]) -> list[UserFigures]:
        nonlocal done
        job = PersonaliseUsers(
            model.digest, model.config, model.vocabulary, share, priors.blend, priors.gain, compares_heads
        )
        found = await pool.run(job)
        done += len(share)
        on_progress(done, len(users))
        return found

    parts = await asyncio.gather(*(run(share) for share in shares))
    return Personalisation(tuple(figures for part in parts for figures in part if figures.words))


def learned_priors(others: Personalisation, strength: float = 90.0) -> Priors:
    """What `personalize` rounds over these users would send to the next ones.

    The mixtures only. That others gain is no evidence that this user will: a gate that begins with the
    population's mean opens for more users, and harmed more.
    """
    return Priors(BlendPrior(mean_weights(others.users), strength))
