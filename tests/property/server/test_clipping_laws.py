"""Whatever a delta holds: a row's clip keeps its bound, is the same in every form, and needs no order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from keyflock_compression.update import DenseUpdate, SparseUpdate
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.clipping import DeltaValidator, WordRows, clip_rows
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.verdicts import AdmittedReport
from keyflock_server.rounds.task import Aggregation

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=6, embedding_size=3, hidden_size=2))
ROWS = WordRows(start=0, rows=6, width=3)

#: Far from where float32 ends: the norm bound has refused what is beyond.
sizes = st.floats(2.0**-20, 2.0**19, width=32)
values = st.one_of(st.just(0.0), sizes, sizes.map(lambda size: -size))
deltas = arrays(np.float32, LAYOUT.size, elements=values)
ratios = st.floats(0.01, 100.0)


def sparse(vector: NDArray[np.float32]) -> SparseUpdate:
    places = np.flatnonzero(vector)
    return SparseUpdate(vector.size, places, vector[places])


def row_norms(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    table = vector[: ROWS.stop].reshape(ROWS.rows, ROWS.width).astype(np.float64)
    norms: NDArray[np.float64] = np.sqrt((table**2).sum(axis=1))
    return norms


@given(deltas, ratios, ratios)
def test_no_row_is_beyond_its_bound_and_short_ones_keep_their_bits(
    delta: NDArray[np.float32], ratio: float, norm: float
) -> None:
    clipped = clip_rows(sparse(delta), ROWS, max_ratio=ratio, max_norm=norm)

    before = row_norms(delta)
    touched = before[before > 0]
    bound = min(norm, ratio * float(np.median(touched))) if touched.size else norm
    after = clipped.update.dense()
    assert (row_norms(after) <= bound * (1 + 1e-6)).all()
    within_bound = np.repeat(before <= bound, ROWS.width)
    np.testing.assert_array_equal(after[: ROWS.stop][within_bound], delta[: ROWS.stop][within_bound])
    np.testing.assert_array_equal(after[ROWS.stop :], delta[ROWS.stop :])


@given(deltas, ratios)
def test_a_sparse_and_a_dense_delta_are_clipped_alike(delta: NDArray[np.float32], ratio: float) -> None:
    one = clip_rows(sparse(delta), ROWS, max_ratio=ratio, max_norm=0.0)
    other = clip_rows(DenseUpdate(delta), ROWS, max_ratio=ratio, max_norm=0.0)

    # float32 sums of squares differ in their last bits, also on which side of the bound a row lies.
    np.testing.assert_allclose(one.update.dense(), other.update.dense(), rtol=1e-5, atol=1e-30)


@given(
    st.lists(deltas, min_size=2, max_size=6), ratios, st.floats(1e-3, 1e3), st.randoms(use_true_random=False)
)
def test_clips_do_not_depend_on_the_order_of_arrival(
    cohort: list[NDArray[np.float32]], ratio: float, scale: float, shuffler: np.random.Generator
) -> None:
    rules = Aggregation(row_clip_ratio=ratio, clip_norm_ratio=ratio)
    scales = {"codec": NormScale.initial(scale)}
    order = list(range(len(cohort)))
    shuffler.shuffle(order)
    validator, other = DeltaValidator(rules, scales), DeltaValidator(rules, scales)

    first = [validator.validate(sparse(delta), LAYOUT, "codec") for delta in cohort]
    shuffled = {at: other.validate(sparse(cohort[at]), LAYOUT, "codec") for at in order}

    for at, report in enumerate(first):
        again = shuffled[at]
        assert isinstance(report, AdmittedReport) == isinstance(again, AdmittedReport)
        if isinstance(report, AdmittedReport) and isinstance(again, AdmittedReport):
            assert (report.clipped_rows, report.scale) == (again.clipped_rows, again.scale)
            np.testing.assert_array_equal(report.update.dense(), again.update.dense())


@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e2), ratios)
def test_no_admitted_delta_is_beyond_the_clip(norm: float, scale: float, ratio: float) -> None:
    rules = Aggregation(clip_norm_ratio=ratio, max_norm_ratio=0.0)
    vector = np.zeros(LAYOUT.size, np.float32)
    vector[1] = norm

    report = DeltaValidator(rules, {"codec": NormScale.initial(scale)}).validate(
        sparse(vector), LAYOUT, "codec"
    )

    assert isinstance(report, AdmittedReport)
    assert report.scale * norm <= ratio * scale * (1 + 1e-6)
