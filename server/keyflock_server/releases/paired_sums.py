"""Sums over users, from which the mean of a paired difference and its spread follow.

Phones score two versions on the same text: a candidate, and the baseline that it is compared with. What they
report is summed before it is stored, so that the sums say how the two compare, and nothing of one user.
"""

import math
from collections.abc import Mapping
from typing import Final, Self

import msgspec
from msgspec import Struct

#: The measure that releases are decided by: each user's share of words among the first three suggestions.
RECALL_AT_3: Final = "recall_at_3"


class InconsistentSums(ValueError):
    """Fault of whoever made them: no users' values have such sums."""


class MetricSums(Struct, frozen=True, kw_only=True):
    """The sums of one metric over all users, each of whom has one value for each version."""

    candidate: float
    baseline: float
    candidate_squared: float
    baseline_squared: float
    #: The sum of the products of both values of each user.
    product: float

    def plus(self, other: "MetricSums") -> "MetricSums":
        """Return the sums over the users of both."""
        return MetricSums(
            candidate=self.candidate + other.candidate,
            baseline=self.baseline + other.baseline,
            candidate_squared=self.candidate_squared + other.candidate_squared,
            baseline_squared=self.baseline_squared + other.baseline_squared,
            product=self.product + other.product,
        )


class PairedSums(Struct, frozen=True, kw_only=True):
    """The sums of an evaluation: of how many users, and of each metric."""

    users: int
    metrics: Mapping[str, MetricSums]

    @classmethod
    def nobody(cls) -> Self:
        """Return the sums over no users."""
        return cls(users=0, metrics={})

    def to_json(self) -> str:
        """Return the JSON object that is stored with the evaluation."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, stored: str) -> Self:
        """Return the sums that ``to_json`` encoded."""
        return msgspec.json.decode(stored, type=cls)

    def plus(self, other: "PairedSums") -> "PairedSums":
        """Return the sums over the users of both; a metric that one of them lacks is left out.

        Edge cases:
            no users on one side -> the other side, with all its metrics
        """
        if not self.users or not other.users:
            return self if self.users else other
        both = self.metrics.keys() & other.metrics.keys()
        return PairedSums(
            users=self.users + other.users,
            metrics={name: self.metrics[name].plus(other.metrics[name]) for name in sorted(both)},
        )


class PairedDifference(Struct, frozen=True, kw_only=True):
    """How a metric of the candidate differs from that of the released version, over users."""

    users: int
    #: Mean over users of the candidate's value minus the baseline's.
    mean: float
    #: Standard deviation of these differences over users, with n - 1 in the denominator.
    deviation: float


def paired_difference(sums: PairedSums, metric: str) -> PairedDifference | None:
    """Return how the metric differs over users; None for fewer than two users, or without the metric.

    Guarantees:
        The deviation is not below zero, whatever rounding has done to the sums.
    Raises:
        InconsistentSums: a sum is not finite, or the sums are those of no values at all, beyond rounding.
    """
    found = sums.metrics.get(metric)
    if found is None or sums.users < 2:
        return None
    numbers = msgspec.structs.astuple(found)
    if not all(math.isfinite(number) for number in numbers):
        raise InconsistentSums(f"a sum of {metric} is not finite")
    users = sums.users
    mean = (found.candidate - found.baseline) / users
    squares = found.candidate_squared + found.baseline_squared
    spread = squares - 2.0 * found.product - users * mean * mean
    # The sums travel as float32, which moves each by a part in ten million for every report.
    if spread < -_ROUNDING * max(squares, 1.0):
        raise InconsistentSums(f"the squares of {metric} are smaller than its sums allow")
    return PairedDifference(users=users, mean=mean, deviation=math.sqrt(max(0.0, spread) / (users - 1)))


_ROUNDING: Final = 1e-4
