import numpy as np
import pytest

from keyflock_models.evaluation.per_user import PerUser


def test_values_are_ratios_and_a_user_without_a_target_has_none() -> None:
    measure = PerUser(np.array([1.0, 0.0, 3.0]), np.array([4.0, 0.0, 4.0]))

    assert measure.values.tolist() == [0.25, 0.75]
    assert measure.mean == 0.5


def test_one_target_is_enough_for_a_value() -> None:
    measure = PerUser(np.array([0.5]), np.array([1.0]))

    assert (measure.values.tolist(), measure.micro) == ([0.5], 0.5)


def test_micro_is_the_ratio_of_the_sums() -> None:
    assert PerUser(np.array([1.0, 3.0]), np.array([2.0, 8.0])).micro == 0.4


def test_nobody_with_a_target_has_no_figure() -> None:
    measure = PerUser(np.zeros(2), np.zeros(2))

    assert measure.values.size == 0
    assert np.isnan([measure.micro, measure.mean, measure.percentile(50)]).all()


def test_the_summary_has_the_fifth_the_fiftieth_and_the_ninety_fifth_percentile() -> None:
    # 0, 0.01, ..., 1: the percentile p is p / 100 exactly.
    measure = PerUser(np.arange(101.0), np.full(101, 100.0))

    summary = measure.summary()

    assert list(summary) == ["micro", "mean", "p5", "p50", "p95"]
    assert [summary[name] for name in ("mean", "p5", "p50", "p95")] == pytest.approx([0.5, 0.05, 0.5, 0.95])
