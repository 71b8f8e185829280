"""Sums over users give the mean and the spread of their differences, and go into the store and back."""

import math

import numpy as np
import pytest

from keyflock_server.releases.paired_sums import (
    InconsistentSums,
    MetricSums,
    PairedSums,
    paired_difference,
)


def sums_of(candidate: list[float], baseline: list[float], metric: str = "recall_at_3") -> PairedSums:
    x, y = np.array(candidate), np.array(baseline)
    return PairedSums(
        users=len(candidate),
        metrics={
            metric: MetricSums(
                candidate=float(x.sum()),
                baseline=float(y.sum()),
                candidate_squared=float((x * x).sum()),
                baseline_squared=float((y * y).sum()),
                product=float((x * y).sum()),
            )
        },
    )


def test_sums_give_the_mean_and_the_deviation_of_the_users_differences() -> None:
    candidate, baseline = [0.25, 0.5, 0.0, 0.75], [0.25, 0.25, 0.125, 0.5]

    difference = paired_difference(sums_of(candidate, baseline), "recall_at_3")

    differences = np.array(candidate) - np.array(baseline)
    assert difference is not None
    assert difference.users == 4
    assert difference.mean == pytest.approx(float(differences.mean()))
    assert difference.deviation == pytest.approx(float(differences.std(ddof=1)))


def test_two_evaluations_together_are_one_of_all_their_users() -> None:
    first, second = sums_of([0.5, 0.25], [0.5, 0.5]), sums_of([0.0], [1.0])

    assert first.plus(second) == sums_of([0.5, 0.25, 0.0], [0.5, 0.5, 1.0])
    assert PairedSums.nobody().plus(first) == first == first.plus(PairedSums.nobody())


def test_a_metric_that_one_evaluation_lacks_is_not_summed_over_half_of_the_users() -> None:
    both = sums_of([0.5, 0.5], [0.5, 0.5]).plus(sums_of([0.5, 0.5], [0.5, 0.5], "mrr_at_10"))

    assert both.users == 4
    assert paired_difference(both, "recall_at_3") is None


def test_equal_versions_have_no_spread_in_spite_of_rounding() -> None:
    values = [0.1] * 1_000

    difference = paired_difference(sums_of(values, values), "recall_at_3")

    assert difference is not None
    assert difference.mean == 0.0
    assert difference.deviation == pytest.approx(0.0, abs=1e-9)


def test_one_user_has_no_spread() -> None:
    assert paired_difference(sums_of([0.5], [0.25]), "recall_at_3") is None
    assert paired_difference(PairedSums.nobody(), "recall_at_3") is None


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_sums_that_are_not_finite_are_refused(number: float) -> None:
    broken = MetricSums(
        candidate=number, baseline=0.0, candidate_squared=0.0, baseline_squared=0.0, product=0.0
    )

    with pytest.raises(InconsistentSums, match="not finite"):
        paired_difference(PairedSums(users=5, metrics={"recall_at_3": broken}), "recall_at_3")


def test_squares_that_are_too_small_for_their_sums_are_refused() -> None:
    broken = MetricSums(candidate=5.0, baseline=0.0, candidate_squared=1.0, baseline_squared=0.0, product=0.0)

    with pytest.raises(InconsistentSums, match="smaller"):
        paired_difference(PairedSums(users=5, metrics={"recall_at_3": broken}), "recall_at_3")


def test_sums_come_back_from_the_store_as_they_were() -> None:
    sums = sums_of([0.5, 0.25], [0.5, 0.5])

    assert PairedSums.from_json(sums.to_json()) == sums
