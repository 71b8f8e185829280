"""Quantiles of Student's t, against those of a library that a server does not import."""

import pytest
from scipy import stats

from keyflock_server.releases.student_t import MIN_DEGREES, student_t_quantile

PROBABILITIES = (0.5, 0.75, 0.9, 0.95, 0.975, 0.9875, 0.99375, 0.999)


@pytest.mark.parametrize("probability", PROBABILITIES)
@pytest.mark.parametrize(("degrees", "tolerance"), [(9, 1e-2), (29, 1e-4), (399, 1e-6), (100_000, 1e-9)])
def test_quantiles_are_those_of_scipy(probability: float, degrees: int, tolerance: float) -> None:
    expected = float(stats.t.ppf(probability, degrees))

    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=tolerance, abs=1e-12)
    assert student_t_quantile(1.0 - probability, degrees) == pytest.approx(-expected, rel=tolerance, abs=1e-9)


def test_too_few_degrees_of_freedom_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        student_t_quantile(0.95, MIN_DEGREES - 1)
