"""The gate's test: what passes, fails and stays open, and that looking often lets no bad version through."""

import math

import numpy as np
import pytest
from scipy import stats

from keyflock_server.releases.non_inferiority import (
    ClosedEvaluation,
    GateVerdict,
    NonInferiorityRule,
    alpha_of_look,
    judge_non_inferiority,
    users_for_power,
)
from keyflock_server.releases.paired_sums import MetricSums, PairedSums

RULE = NonInferiorityRule(metric="recall_at_3", margin=0.005, confidence=0.95, min_users=100)


def evaluation(mean: float, deviation: float, users: int, new_phones: int | None = None) -> ClosedEvaluation:
    """Return an evaluation whose users' differences have exactly this mean and deviation."""
    squares = deviation**2 * (users - 1) + users * mean**2
    sums = MetricSums(
        candidate=users * mean,
        baseline=0.0,
        candidate_squared=squares,
        baseline_squared=0.0,
        product=0.0,
    )
    phones = users if new_phones is None else new_phones
    return ClosedEvaluation(sums=PairedSums(users=users, metrics={"recall_at_3": sums}), new_phones=phones)


def test_without_evaluations_there_is_no_data() -> None:
    result = judge_non_inferiority([], RULE)

    assert result.verdict is GateVerdict.NO_DATA
    assert (result.users, result.users_needed, result.looks) == (0, None, ())


def test_an_equal_version_passes_and_the_bounds_are_those_of_the_t_test() -> None:
    result = judge_non_inferiority([evaluation(0.0, 0.03, 600)], RULE)

    (only,) = result.looks
    reach = float(stats.t.ppf(0.975, 599)) * 0.03 / math.sqrt(600)
    assert result.verdict is GateVerdict.PASS
    assert (only.lower, only.upper) == pytest.approx((-reach, reach), rel=1e-6)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.02, GateVerdict.PASS),
        (0.0, GateVerdict.PASS),
        (-0.005, GateVerdict.INCONCLUSIVE),
        (-0.02, GateVerdict.FAIL),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_margin(mean: float, verdict: GateVerdict) -> None:
    assert judge_non_inferiority([evaluation(mean, 0.03, 600)], RULE).verdict is verdict


def test_too_few_users_decide_nothing_however_clear_they_are() -> None:
    result = judge_non_inferiority([evaluation(-0.5, 0.001, 99)], RULE)

    assert result.verdict is GateVerdict.INCONCLUSIVE
    assert result.looks == ()
    assert result.users_needed == 100


def test_an_open_verdict_says_how_many_users_are_needed() -> None:
    result = judge_non_inferiority([evaluation(-0.001, 0.04, 200)], RULE)

    assert result.verdict is GateVerdict.INCONCLUSIVE
    assert result.users_needed == users_for_power(0.04, 0.005, alpha_of_look(2, 0.95)) == 1090


def test_looks_come_with_a_doubling_of_the_users_and_not_with_every_evaluation() -> None:
    result = judge_non_inferiority([evaluation(-0.004, 0.05, 60)] * 14, RULE)

    assert [one.users for one in result.looks] == [120, 240, 480]
    assert [one.alpha for one in result.looks] == pytest.approx([0.025, 0.0125, 0.00625])


def test_all_looks_together_have_no_more_than_one_look_may_have() -> None:
    assert sum(alpha_of_look(number, 0.95) for number in range(1, 40)) == pytest.approx(0.05)


def test_a_later_look_that_decides_otherwise_is_the_verdict() -> None:
    passed, worse = evaluation(0.0, 0.03, 600), evaluation(-0.03, 0.03, 1_200)

    assert judge_non_inferiority([passed], RULE).verdict is GateVerdict.PASS
    assert judge_non_inferiority([passed, worse], RULE).verdict is GateVerdict.FAIL


def test_a_verdict_stays_while_later_looks_decide_nothing() -> None:
    passed, noisy = evaluation(0.0, 0.03, 600), evaluation(-0.005, 0.3, 600)

    result = judge_non_inferiority([passed, noisy], RULE)

    assert [one.verdict for one in result.looks] == [GateVerdict.PASS, GateVerdict.INCONCLUSIVE]
    assert result.verdict is GateVerdict.PASS


def test_a_phone_that_evaluates_ten_times_counts_as_one_user() -> None:
    again = [evaluation(0.0, 0.03, 100)] + [evaluation(0.0, 0.03, 100, new_phones=0)] * 9

    result = judge_non_inferiority(again, RULE)

    assert result.users == 100
    assert [one.users for one in result.looks] == [100]
    assert result.verdict is GateVerdict.INCONCLUSIVE


def test_a_version_worse_by_the_margin_passes_at_no_look_of_four_but_in_one_of_twenty_runs() -> None:
    rng, runs = np.random.default_rng(16), 2_000
    passed = 0
    for _ in range(runs):
        batches = []
        for users in (100, 100, 200, 400):
            differences = rng.normal(-0.005, 0.03, users)
            batches.append(evaluation(float(differences.mean()), float(differences.std(ddof=1)), users))
        verdicts = [judge_non_inferiority(batches[: n + 1], RULE).verdict for n in range(len(batches))]
        passed += GateVerdict.PASS in verdicts

    # At most 5 % are promised; the four looks have 4.7 %, and a binomial spread of five deviations is 2.4 %.
    assert passed / runs <= 0.05 + 5 * math.sqrt(0.05 * 0.95 / runs)
    assert passed / runs >= 0.01  # it is a test, and does not hold everything
