"""The test of non-inferiority: is a candidate at most a margin worse than its baseline, for users?

Each user has a difference d of the candidate's value minus the baseline's. With n users of mean D and
deviation s, the two one-sided bounds are D ± t(1 - α, n - 1) s / √n.

    pass          the lower bound is above -margin: a version that is a margin worse passes in α of all tests
    fail          the upper bound is below -margin: it is worse by more than the margin
    inconclusive  neither: more users are needed

Whoever tests growing data again and again passes a bad version in the end. So there are looks: the first once
`min_users` users have evaluated, the next ones when their number has doubled since the one before. The k-th
has α / 2^k, which is α over all of them together, whatever they have in common (Boole's inequality). Which
sums are a look follows from the evaluations alone, in their order: asking for the verdict spends nothing.

Source: Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15 (two one-sided tests); Lan and
DeMets 1983, Biometrika 70 (spending of α).
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import NormalDist
from typing import Final

from msgspec import Struct

from keyflock_server.protocol.operator.promotion_policy import MIN_USERS
from keyflock_server.releases.paired_sums import PairedDifference, PairedSums, paired_difference
from keyflock_server.releases.student_t import MIN_DEGREES, student_t_quantile

#: The number of users that is named is enough for an equal version to pass so often: 95 % and some to spare.
POWER: Final = 0.97
#: Later looks have no α worth speaking of; this many doublings are more users than there are phones.
_MAX_LOOKS: Final = 12


class GateVerdict(StrEnum):
    """What a gate finds."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    #: There are evaluations, and they decide nothing: the release holds.
    INCONCLUSIVE = "inconclusive"
    #: Nobody has evaluated the candidate against the baseline.
    NO_DATA = "no_data"


class ClosedEvaluation(Struct, frozen=True, kw_only=True):
    """One closed evaluation of a candidate against a baseline."""

    sums: PairedSums
    #: How many of its phones had not been in an earlier evaluation of the same two versions.
    new_phones: int


class InterimLook(Struct, frozen=True, kw_only=True):
    """One test on all evaluations up to one of them."""

    #: Its number, from 1.
    number: int
    #: Number of different phones in the evaluations so far; the test counts no phone twice.
    users: int
    mean: float
    deviation: float
    #: The one-sided bounds at this look's confidence, which is 1 - ``alpha`` for each.
    lower: float
    upper: float
    alpha: float
    verdict: GateVerdict


class NonInferiorityRule(Struct, frozen=True, kw_only=True):
    """What is tested."""

    metric: str
    #: How much worse a candidate may be, in the metric's unit.
    margin: float
    #: One-sided confidence over all looks, between 0.5 and 1.
    confidence: float
    #: Number of users of the first look.
    min_users: int


class NonInferiorityResult(Struct, frozen=True, kw_only=True):
    """The result of all looks so far."""

    verdict: GateVerdict
    #: Number of different phones that have evaluated.
    users: int
    #: With so many an equal version passes in 97 % of all cases; None without a spread to tell it from.
    users_needed: int | None
    #: The looks, in order; empty before the first.
    looks: tuple[InterimLook, ...]


def judge_non_inferiority(
    evaluations: Sequence[ClosedEvaluation], rule: NonInferiorityRule
) -> NonInferiorityResult:
    """Return the verdict on a candidate.

    Args:
        evaluations: All its evaluations against the same baseline, in the order in which they closed.
        rule: What is tested.
    Guarantees:
        A version that is worse by the margin passes at any look with a probability of at most
        1 - ``confidence``, one that is worse by more more seldom; the same holds for the failing of one that
        is worse by less. A verdict never changes unless further evaluations do.
    Edge cases:
        phones evaluated twice -> their values count for the mean, and as one user for the spread of it;
        a later look decides otherwise -> the last look that decided anything is the verdict
    Raises:
        InconsistentSums: fault of the store; sums that no users' values have.
    """
    looks: list[InterimLook] = []
    sums, users = PairedSums.nobody(), 0
    for evaluation in evaluations:
        sums = sums.plus(evaluation.sums)
        users += min(evaluation.new_phones, evaluation.sums.users)
        due_at = max(rule.min_users, MIN_USERS) if not looks else 2 * looks[-1].users
        difference = paired_difference(sums, rule.metric)
        if users >= due_at and difference is not None and len(looks) < _MAX_LOOKS:
            looks.append(_look(len(looks) + 1, users, difference, rule))
    decided = [one.verdict for one in looks if one.verdict is not GateVerdict.INCONCLUSIVE]
    verdict = decided[-1] if decided else GateVerdict.INCONCLUSIVE if sums.users else GateVerdict.NO_DATA
    return NonInferiorityResult(
        verdict=verdict,
        users=users,
        users_needed=_users_needed(paired_difference(sums, rule.metric), looks, rule),
        looks=tuple(looks),
    )


def alpha_of_look(number: int, confidence: float) -> float:
    """Return the share of false verdicts that a look may have; over all looks it is 1 - ``confidence``."""
    return (1.0 - confidence) / 2.0**number


def users_for_power(deviation: float, margin: float, alpha: float) -> int:
    """Return with how many users a test passes an equal version in 97 % of all cases.

    Source: n = ((z(1 - α) + z(power)) s / margin)², with two users more for the difference between t and z.
    """
    normal = NormalDist()
    total = normal.inv_cdf(1.0 - alpha) + normal.inv_cdf(POWER)
    return math.ceil((total * deviation / margin) ** 2) + 2


def _look(number: int, users: int, difference: PairedDifference, rule: NonInferiorityRule) -> InterimLook:
    alpha = alpha_of_look(number, rule.confidence)
    reach = student_t_quantile(1.0 - alpha, max(users - 1, MIN_DEGREES))
    reach *= difference.deviation / math.sqrt(users)
    lower, upper = difference.mean - reach, difference.mean + reach
    if lower > -rule.margin:
        verdict = GateVerdict.PASS
    elif upper < -rule.margin:
        verdict = GateVerdict.FAIL
    else:
        verdict = GateVerdict.INCONCLUSIVE
    return InterimLook(
        number=number,
        users=users,
        mean=difference.mean,
        deviation=difference.deviation,
        lower=lower,
        upper=upper,
        alpha=alpha,
        verdict=verdict,
    )


def _users_needed(
    difference: PairedDifference | None, looks: Sequence[InterimLook], rule: NonInferiorityRule
) -> int | None:
    """Return how many users the next look that can decide should have."""
    if difference is None:
        return None
    alpha = alpha_of_look(len(looks) + 1, rule.confidence)
    at_least = 2 * looks[-1].users if looks else max(rule.min_users, MIN_USERS)
    return max(at_least, users_for_power(difference.deviation, rule.margin, alpha))
