"""The result over all users: means over users, the share of users who are hurt, and how certain that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from keyflock_client_sim.experiments.personalisation.arms import FROZEN, GLOBAL, PRODUCT
from keyflock_client_sim.experiments.personalisation.user_evaluation import ArmScores, UserResult
from keyflock_models.arrays import F64
from keyflock_models.evaluation.paired_bootstrap import Comparison, paired_bootstrap
from keyflock_models.evaluation.per_user import PerUser
from keyflock_models.personal.gate import Z_90

#: A loss of recall@3 beyond this many points is harm.
HARM_POINTS: Final = 0.2
#: The intervals of the learning curve, in words typed.
CURVE_EDGES: Final = (0, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Hits in the first three while the user's word count was between two edges."""

    words: int
    trunk: float
    blend: float
    users: int


@dataclass(frozen=True, slots=True, eq=False)
class PersonalisationResult:
    """The whole measurement."""

    users: tuple[UserResult, ...]

    def measure(self, arm: str, name: str) -> PerUser:
        """Return one measure of one arm, by user: at_1, at_3, reciprocal_rank, nll or strokes."""
        values = [getattr(user.arms.get(arm, ArmScores()), name) for user in self.users]
        below = {"nll": "public_words", "strokes": "full_strokes"}.get(name, "words")
        return PerUser(
            np.array(values, np.float64), np.array([getattr(user, below) for user in self.users], np.float64)
        )

    def gain(self, arm: str = PRODUCT) -> F64:
        """Return recall@3 of an arm minus the global model's, by user, in points."""
        both = [self.measure(one, "at_3") for one in (arm, GLOBAL)]
        return 100.0 * (both[0].values - both[1].values)

    def compared(self, arm: str = PRODUCT) -> Comparison:
        """Return the gain's mean over users with its interval."""
        return paired_bootstrap(
            self.measure(arm, "at_3"), self.measure(GLOBAL, "at_3"), seed=0, statistic="mean"
        )

    def relative_gain(self, arm: str = PRODUCT) -> float:
        """Return the relative gain of the users' mean recall@3."""
        return self.measure(arm, "at_3").mean / self.measure(GLOBAL, "at_3").mean - 1.0

    @property
    def share_open(self) -> float:
        """Return the share of users whose gate is open."""
        return float(np.mean([user.places > 0 for user in self.users]))

    @property
    def share_lower(self) -> float:
        """Return the share of users with more than ``HARM_POINTS`` fewer hits, chance included."""
        return float(np.mean(self.gain() < -HARM_POINTS))

    @property
    def share_hurt(self) -> float:
        """Return the share who lose more than ``HARM_POINTS``: their upper 90 % bound is below zero."""
        return float(np.mean([_is_hurt(user) for user in self.users]))

    def curve(self) -> list[CurvePoint]:
        """Return prequential recall@3 of the blend and the trunk by how many words the user had typed."""
        points = []
        for low, high in pairwise(CURVE_EDGES):
            there = [user for user in self.users if len(user.curve) >= high]
            if len(there) >= 5:
                trunk = np.mean([user.curve_trunk[low:high].mean() for user in there])
                blend = np.mean([user.curve[low:high].mean() for user in there])
                points.append(CurvePoint(high, float(trunk), float(blend), len(there)))
        return points

    def headline(self) -> dict[str, object]:
        """Return the six main figures, means over users."""
        return {
            "users": len(self.users),
            "global_recall_at_3": self.measure(GLOBAL, "at_3").mean,
            "blended_recall_at_3": self.measure(PRODUCT, "at_3").mean,
            "relative_gain": self.relative_gain(),
            "share_hurt": self.share_hurt,
            "p5_gain": float(np.percentile(self.gain(), 5)),
        }

    def summary(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        interval = self.compared()
        return {
            **self.headline(),
            "words": sum(user.words for user in self.users),
            "gain_points": 100.0 * interval.difference,
            "gain_points_low": 100.0 * interval.low,
            "gain_points_high": 100.0 * interval.high,
            "share_open": self.share_open,
            "share_lower": self.share_lower,
            "frozen_recall_at_3": self.measure(FROZEN, "at_3").mean,
            "frozen_relative_gain": self.relative_gain(FROZEN),
            "frozen_p5_gain": float(np.percentile(self.gain(FROZEN), 5)),
            "arms": {
                arm: {
                    "recall_at_1": self.measure(arm, "at_1").mean,
                    "recall_at_3": self.measure(arm, "at_3").mean,
                    "recall_at_3_micro": self.measure(arm, "at_3").micro,
                    "mrr_at_10": self.measure(arm, "reciprocal_rank").mean,
                }
                for arm in self.users[0].arms
            },
        }


def mean_weights(users: Sequence[UserResult]) -> F64:
    """Return the users' mean responsibilities by match; each row adds up to 1."""
    total = np.sum([user.responsibilities for user in users], axis=0)
    return np.asarray(total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12))


def _is_hurt(user: UserResult) -> bool:
    differences = user.differences.astype(np.float64)
    if not differences.size or 100.0 * differences.mean() >= -HARM_POINTS:
        return False
    deviation = np.sqrt((differences.var() + 1.0 / differences.size) / differences.size)
    return bool(differences.mean() + Z_90 * deviation < 0.0)
