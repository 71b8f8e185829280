"""Users who score two versions on the same words: drawn from a stated distribution, summed as phones do.

Each user has `words` scored words. The share of words that the baseline has among its first three suggestions
differs between users: a beta distribution with mean 0.25 and spread 0.08. On a share `discordance` of the
words one version hits and the other misses; which one is a coin toss, whose bias is the candidate's true
difference. So a user's difference has the spread that so many words give it, √(discordance / words).

Source: shares of recall@3 over users of the SMS corpus, BENCHMARKS.md. The discordance is stated, not
measured: versions a few rounds apart disagree on fewer words, so that 0.1 asks for more phones than needed.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_server.releases.non_inferiority import ClosedEvaluation
from keyflock_server.releases.paired_sums import RECALL_AT_3, MetricSums, PairedSums

_MEAN: Final = 0.25
_SPREAD: Final = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedUsers:
    """How users and versions differ."""

    #: Number of words that each phone scores.
    words: int = 100
    #: Share of the words on which exactly one of both versions is right.
    discordance: float = 0.10

    @property
    def deviation(self) -> float:
        """Return the standard deviation over users of the candidate's minus the baseline's recall@3."""
        return float(np.sqrt(self.discordance / self.words))

    def draw(
        self, rng: np.random.Generator, users: int, difference: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw each user's recall@3 under the candidate and under the baseline.

        Args:
            rng: Draws everything.
            users: The number of users.
            difference: The candidate's true recall@3 minus the baseline's.
        """
        precision = _MEAN * (1.0 - _MEAN) / _SPREAD**2 - 1.0
        shares = rng.beta(_MEAN * precision, (1.0 - _MEAN) * precision, users)
        apart = rng.binomial(self.words, self.discordance, users)
        gained = rng.binomial(apart, 0.5 + difference / (2.0 * self.discordance))
        both = rng.binomial(self.words - apart, shares)
        return (both + gained) / self.words, (both + apart - gained) / self.words


def evaluation_of(candidate: NDArray[np.float64], baseline: NDArray[np.float64]) -> ClosedEvaluation:
    """Return the evaluation of new phones; each sends float32 numbers, as real ones do."""
    x, y = candidate.astype(np.float32), baseline.astype(np.float32)
    sums = MetricSums(
        candidate=float(x.sum()),
        baseline=float(y.sum()),
        candidate_squared=float((x * x).sum()),
        baseline_squared=float((y * y).sum()),
        product=float((x * y).sum()),
    )
    return ClosedEvaluation(sums=PairedSums(users=len(x), metrics={RECALL_AT_3: sums}), new_phones=len(x))
