"""The paired bootstrap: is one model better than another for users like these?

It resamples users, never words; where models were trained several times, users and runs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from keyflock_models.arrays import F64
from keyflock_models.evaluation.per_user import PerUser


@dataclass(frozen=True, slots=True)
class Comparison:
    """A difference between two models, and its confidence interval."""

    #: Candidate minus baseline.
    difference: float
    #: Bounds of the interval.
    low: float
    high: float
    confidence: float
    #: Number of users compared.
    users: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    candidate: PerUser,
    baseline: PerUser,
    *,
    seed: int,
    statistic: Literal["micro", "mean"] = "micro",
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Comparison:
    """Return the percentile interval of the difference, for other samples of users of the same kind.

    Users are drawn with replacement; each drawn user brings both of its measurements, so that what makes a
    user easy or hard for both models cancels out.

    Args:
        candidate: One measure of a model.
        baseline: The same measure of another, over the same users in the same order.
        seed: The seed of the resamples.
        statistic: The ratio over all targets, or the mean over users.
        resamples: How many times users are drawn.
        confidence: The confidence of the interval.
    Edge cases:
        users without a target are left out; fewer than two users -> an interval of (-inf, inf)
    Raises:
        ValueError: the two do not have the same users.
    Source:
        Efron and Tibshirani 1993, chapter 13.
    """
    if candidate.denominator.shape != baseline.denominator.shape:
        msg = (
            f"{candidate.denominator.size} users against {baseline.denominator.size}: not a paired comparison"
        )
        raise ValueError(msg)
    has_targets = (candidate.denominator > 0) & (baseline.denominator > 0)
    sides = [
        np.stack([side.numerator[has_targets], side.denominator[has_targets]])
        for side in (candidate, baseline)
    ]
    users = int(has_targets.sum())

    def difference(weights: F64) -> F64:
        values = []
        for numerator, denominator in sides:
            if statistic == "micro":
                values.append((weights @ numerator) / (weights @ denominator))
            else:
                values.append(weights @ (numerator / denominator) / users)
        return np.asarray(values[0] - values[1], np.float64)

    if users < 2:
        single = float(difference(np.ones((1, users)))[0]) if users else float("nan")
        return Comparison(single, -np.inf, np.inf, confidence, users)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(users, np.full(users, 1 / users), size=resamples).astype(np.float64)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(difference(drawn), [tail, 100 - tail])
    return Comparison(float(difference(np.ones((1, users)))[0]), float(low), float(high), confidence, users)


def paired_bootstrap_over_runs(
    candidate: F64,
    baseline: F64,
    *,
    seed: int,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Comparison:
    """Return the percentile interval of a difference of user means, for other samples of users and runs.

    Users and runs are drawn with replacement, each on its own; a drawn user has its measurements of all drawn
    runs. The interval covers both kinds of chance: which users were sampled, and how training went.

    Args:
        candidate: A ratio for each run and user, shape (R, U).
        baseline: The same of another model, over the same runs and users in the same order.
        seed: The seed of the resamples.
        resamples: How many times both are drawn.
        confidence: The confidence of the interval.
    Edge cases:
        a single run -> the interval over users alone; fewer than two users -> an interval of (-inf, inf)
        few runs -> drawing from them understates how much runs differ, by (R - 1) / R of the variance
    Raises:
        ValueError: the two do not have the same runs and users, or there is none of either.
    Source:
        Owen 2007, "The pigeonhole bootstrap", arXiv:0712.1111.
    """
    if candidate.shape != baseline.shape or candidate.ndim != 2 or not candidate.size:
        msg = f"ratios of shapes {candidate.shape} and {baseline.shape}: not a paired comparison"
        raise ValueError(msg)
    gains = candidate - baseline
    runs, users = gains.shape
    difference = float(gains.mean())
    if users < 2:
        return Comparison(difference, -np.inf, np.inf, confidence, users)
    rng = np.random.default_rng(seed)
    by_run = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    by_user = rng.multinomial(users, np.full(users, 1 / users), size=resamples) / users
    drawn = np.einsum("br,ru,bu->b", by_run, gains, by_user, optimize=True)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Comparison(difference, float(low), float(high), confidence, users)
