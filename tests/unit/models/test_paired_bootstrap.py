import numpy as np
import pytest

from keyflock_models.evaluation.paired_bootstrap import paired_bootstrap, paired_bootstrap_over_runs
from keyflock_models.evaluation.per_user import PerUser


def hits(numerator: object, denominator: object) -> PerUser:
    return PerUser(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))


def test_a_gain_that_every_user_has_is_certain_however_different_the_users_are() -> None:
    words = np.full(50, 100)
    before = np.arange(50)

    found = paired_bootstrap(hits(before + 5, words), hits(before, words), seed=0)

    assert found.difference == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05, 0.05))
    assert found.is_significant


def test_no_difference_in_the_mean_is_no_finding() -> None:
    words = np.full(40, 100)
    swing = np.tile([10, -10], 20)

    found = paired_bootstrap(hits(50 + swing, words), hits(np.full(40, 50), words), seed=0)

    assert found.low < 0 < found.high
    assert not found.is_significant


def test_the_interval_is_as_wide_as_theory_says() -> None:
    # Differences with standard deviation 0.1 over 400 users: half-width 1.96 * 0.1 / 20 = 0.0098. The
    # bootstrap's own noise in a half-width from 2,000 resamples is under 5 % (standard error of a 2.5 %
    # quantile).
    rng = np.random.default_rng(0)
    gains = rng.normal(0, 0.1, 400)
    gains = (gains - gains.mean()) / gains.std() * 0.1

    nobody_gains = hits(np.zeros(400), np.ones(400))
    found = paired_bootstrap(hits(gains, np.ones(400)), nobody_gains, seed=1, statistic="mean")

    assert (found.high - found.low) / 2 == pytest.approx(0.0098, rel=0.15)


def test_micro_follows_the_heavy_typist_and_mean_the_many() -> None:
    words = np.array([1_000, 10, 10, 10])
    candidate, baseline = hits([500, 0, 0, 0], words), hits([400, 1, 1, 1], words)

    assert paired_bootstrap(candidate, baseline, seed=0).difference > 0
    assert paired_bootstrap(candidate, baseline, seed=0, statistic="mean").difference < 0


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(5)
    candidate, baseline = hits(rng.random(9), np.ones(9)), hits(rng.random(9), np.ones(9))

    assert paired_bootstrap(candidate, baseline, seed=3) == paired_bootstrap(candidate, baseline, seed=3)
    assert paired_bootstrap(candidate, baseline, seed=3) != paired_bootstrap(candidate, baseline, seed=4)


def test_one_user_proves_nothing_and_silent_users_are_left_out() -> None:
    found = paired_bootstrap(hits([5, 0], [10, 0]), hits([4, 0], [10, 0]), seed=0)

    assert found.users == 1
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isnan(paired_bootstrap(hits([0], [0]), hits([0], [0]), seed=0).difference)


def test_measures_of_different_users_are_refused() -> None:
    with pytest.raises(ValueError, match="not a paired comparison"):
        paired_bootstrap(hits([1], [1]), hits([1, 1], [1, 1]), seed=0)


def test_over_runs_a_gain_of_every_user_in_every_run_is_certain() -> None:
    before = np.random.default_rng(0).random((3, 40))

    found = paired_bootstrap_over_runs(before + 0.05, before, seed=0)

    assert (found.difference, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert (found.users, found.is_significant) == (40, True)


def test_over_runs_that_differ_the_interval_is_as_wide_as_the_runs_however_many_users_there_are() -> None:
    # Of three runs all users gain 0, 0.03 and 0.06: one draw in 27 has the first alone, so the 2.5 % quantile
    # lies there, and the 97.5 % quantile at the last alone.
    gains = np.repeat([[0.0], [0.03], [0.06]], 500, axis=1)

    found = paired_bootstrap_over_runs(gains, np.zeros_like(gains), seed=0)

    assert (found.difference, found.low, found.high) == pytest.approx((0.03, 0.0, 0.06))


def test_over_one_run_the_interval_is_that_over_users() -> None:
    rng = np.random.default_rng(2)
    gains = rng.normal(0, 0.1, 300)
    gains = (gains - gains.mean()) / gains.std() * 0.1

    found = paired_bootstrap_over_runs(gains[None], np.zeros((1, 300)), seed=1)

    # Half-width 1.96 * 0.1 / sqrt(300) = 0.0113; the quantiles' own noise as above.
    assert (found.high - found.low) / 2 == pytest.approx(0.0113, rel=0.15)


def test_over_runs_one_user_proves_nothing_and_other_shapes_are_refused() -> None:
    found = paired_bootstrap_over_runs(np.full((3, 1), 0.4), np.full((3, 1), 0.3), seed=0)

    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="not a paired comparison"):
        paired_bootstrap_over_runs(np.zeros((3, 2)), np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="not a paired comparison"):
        paired_bootstrap_over_runs(np.zeros((0, 2)), np.zeros((0, 2)), seed=0)
