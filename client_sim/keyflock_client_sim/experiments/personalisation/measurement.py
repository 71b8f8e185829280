"""This module measures users in the worker pool, and makes the prior from other users."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyflock_client_sim.experiments.personalisation.jobs import EvaluatePersonalisation
from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult, mean_weights
from keyflock_client_sim.experiments.personalisation.user_evaluation import UserResult
from keyflock_client_sim.experiments.personalisation.users import UserMessages
from keyflock_client_sim.measuring.scorers import PublishedModel
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN

#: Users a job: small, so that progress moves and the last job is no long wait.
_USERS_A_JOB: Final = 4


@dataclass(frozen=True, slots=True)
class Priors:
    """The priors of a user before a word was typed."""

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
) -> PersonalisationResult:
    """Measure every user.

    Args:
        pool: Runs the jobs.
        model: The trunk, as published to the pool.
        users: The users' messages, cut in time.
        priors: The priors of all users.
        compares_heads: Whether the head's alternatives are arms as well.
        on_progress: Called with the number of users done and of all.
    """
    shares = [tuple(users[at : at + _USERS_A_JOB]) for at in range(0, len(users), _USERS_A_JOB)]
    done = 0

    async def run(share: tuple[UserMessages, ...]) -> list[UserResult]:
        nonlocal done
        job = EvaluatePersonalisation(
            model.digest, model.config, model.vocabulary, share, priors.blend, priors.gain, compares_heads
        )
        found = await pool.run(job)
        done += len(share)
        on_progress(done, len(users))
        return found

    parts = await asyncio.gather(*(run(share) for share in shares))
    return PersonalisationResult(tuple(figures for part in parts for figures in part if figures.words))


def priors_from(others: PersonalisationResult, strength: float = 90.0) -> Priors:
    """Return the priors that `personalize` rounds over these users would send to the next ones.

    They hold mixtures only. That others gain is no evidence that this user will: a gate that begins with the
    population's mean opens for more users, and harmed more.
    """
    return Priors(BlendPrior(mean_weights(others.users), strength))
