"""Whatever a phone sends as paired scores, it moves the sums no further than one honest user could."""

import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keyflock_models.arrays import F32
from keyflock_models.evaluation.paired_scores import (
    METRICS,
    PairedScore,
    PairedScores,
    encode_scores,
    paired_layout,
    scores_problem,
    sums_by_metric,
)

ALL = tuple(METRICS)
SIZE = paired_layout(ALL).size
FINITE = st.floats(-1e6, 1e6, width=32)


def scores(value: st.SearchStrategy[float]) -> st.SearchStrategy[PairedScores]:
    pairs = st.builds(PairedScore, value, value)
    return st.builds(
        PairedScores,
        words=st.integers(1, 10**9),
        oov_rate=st.floats(-1.0, 2.0),
        scores=st.fixed_dictionaries(dict.fromkeys(ALL, pairs)),
    )


@given(scores(st.floats(-1e6, 1e6)))
def test_whatever_an_honest_phone_measures_is_admitted(measured: PairedScores) -> None:
    assert scores_problem(encode_scores(measured, ALL), ALL) == ""


@given(scores(st.floats(0.0, 1.0)), st.integers(0, SIZE - 1), FINITE)
def test_what_is_admitted_moves_no_sum_further_than_one_user_could(
    measured: PairedScores, at: int, lie: float
) -> None:
    vector = encode_scores(measured, ALL)

    vector[at] = lie

    require_one_user_at_most(vector)


@given(arrays.arrays(np.float32, SIZE, elements=st.floats(-2.0, 2.0, width=32)))
def test_any_admitted_vector_is_one_users(vector: F32) -> None:
    require_one_user_at_most(vector)


def require_one_user_at_most(vector: F32) -> None:
    """Check the promise for a vector that the server admits: its entries are those of one pair of means."""
    if scores_problem(vector, ALL):
        return
    assert vector[0] == 1.0
    for metric, sums in sums_by_metric(vector, ALL).items():
        low, high = METRICS[metric]
        assert low <= sums["candidate"] <= high
        assert low <= sums["baseline"] <= high
        # The spread that it claims for its difference is that of its own difference, to float32's rounding.
        spread = sums["candidate_squared"] + sums["baseline_squared"] - 2.0 * sums["product"]
        difference = sums["candidate"] - sums["baseline"]
        assert abs(spread - difference**2) <= 5e-6 * high**2
