"""A measure per user: one ratio for each user, from which every summary over users follows."""

from dataclasses import dataclass

import numpy as np

from keyflock_models.arrays import F64


@dataclass(frozen=True, slots=True, eq=False)
class PerUser:
    """A ratio of two sums for each user, such as hits over targets.

    Users without a single target have no value: they count in no summary.
    """

    #: The upper sums. Shape (U,).
    numerator: F64
    #: The lower sums, none negative. Shape (U,).
    denominator: F64

    @property
    def values(self) -> F64:
        """The ratio of each user that has one."""
        has_value = self.denominator > 0
        return self.numerator[has_value] / self.denominator[has_value]

    @property
    def micro(self) -> float:
        """The ratio over all targets: heavy typists weigh more. NaN if there is no target at all."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total > 0 else float("nan")

    @property
    def mean(self) -> float:
        """The mean over users: everyone weighs the same. NaN if there is no user with a target."""
        return float(self.values.mean()) if self.values.size else float("nan")

    def percentile(self, percent: float) -> float:
        """Return the value below which this percentage of the users lies, interpolated; NaN without users."""
        return float(np.percentile(self.values, percent)) if self.values.size else float("nan")

    def summary(self) -> dict[str, float]:
        """Return `micro`, `mean`, `p5`, `p50` and `p95`."""
        return {"micro": self.micro, "mean": self.mean} | {f"p{p}": self.percentile(p) for p in (5, 50, 95)}
