"""Clips shorten deltas and rows, by bounds that can be worked out by hand."""

import math

import numpy as np
import pytest

from keyflock_compression import DecodedUpdate
from keyflock_compression.update import DenseUpdate, SparseUpdate
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.clipping import DeltaValidator, WordRows, clip_rows
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import AdmittedReport, RejectedReport, Verdict
from keyflock_server.rounds.task import Aggregation

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=5, embedding_size=2, hidden_size=1))
ROWS = WordRows(start=0, rows=5, width=2)
#: A task whose deltas are usually of norm 1.
ONE = {"codec": NormScale.initial(1.0)}


def delta(*rows: tuple[float, float]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The first rows of the embedding, zeros in the others, and ones in all other places."""
    vector = np.ones(LAYOUT.size, np.float32)
    vector[: ROWS.stop] = 0.0
    vector[: 2 * len(rows)] = np.array(rows, np.float32).reshape(-1)
    return vector


def sparse(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> SparseUpdate:
    places = np.flatnonzero(vector)
    return SparseUpdate(vector.size, places, vector[places])


def of_norm(norm: float) -> DecodedUpdate:
    vector = np.zeros(LAYOUT.size, np.float32)
    vector[0] = norm
    return sparse(vector)


def admitted(validator: DeltaValidator, update: DecodedUpdate) -> AdmittedReport:
    report = validator.validate(update, LAYOUT, "codec")
    assert isinstance(report, AdmittedReport), report
    return report


def test_the_rows_are_those_of_the_embedding() -> None:
    assert WordRows.of(LAYOUT) == ROWS
    assert WordRows.of(ParamLayout(names=("gain",), shapes=((3,),))) is None


@pytest.mark.parametrize("form", [DenseUpdate, sparse], ids=["dense", "sparse"])
def test_a_row_is_shortened_to_the_fixed_norm_and_the_others_keep_their_bits(form: type[DenseUpdate]) -> None:
    before = delta((3.0, 4.0), (0.3, 0.4), (0.0, 0.0), (0.0, 1.0))

    clipped = clip_rows(form(before), ROWS, max_ratio=0.0, max_norm=2.0)

    assert clipped.rows == 1
    np.testing.assert_allclose(clipped.update.dense()[:2], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(clipped.update.dense()[2:], before[2:])


@pytest.mark.parametrize("form", [DenseUpdate, sparse], ids=["dense", "sparse"])
def test_the_median_is_over_the_rows_that_are_not_zero(form: type[DenseUpdate]) -> None:
    before = delta((0.0, 10.0), (0.0, 1.0), (0.0, 0.0), (0.0, 2.0))

    clipped = clip_rows(form(before), ROWS, max_ratio=1.5, max_norm=0.0)

    # The median of 10, 1 and 2 is 2; with the row of zeros it would be 1.5.
    np.testing.assert_allclose(clipped.update.dense()[:8], [0, 3, 0, 1, 0, 0, 0, 2], rtol=1e-6)


def test_what_needs_no_clip_is_the_same_object() -> None:
    update = sparse(delta((1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)))

    assert clip_rows(update, ROWS, max_ratio=1.0, max_norm=0.0).update is update


def test_a_delta_is_not_changed_by_being_clipped() -> None:
    before = delta((3.0, 4.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    update = DenseUpdate(before)

    clip_rows(update, ROWS, max_ratio=0.0, max_norm=1.0)

    assert before[0] == 3.0


def test_a_long_delta_is_scaled_to_the_clip_and_still_weighs_whole() -> None:
    validator = DeltaValidator(Aggregation(clip_norm_ratio=2.0), ONE)
    total = PartialAggregate(LAYOUT.size)

    report = admitted(validator, of_norm(5.0))
    total.add(report.update, 3.0, report.scale)

    assert report.scale == pytest.approx(0.4)
    assert report.counts == {Verdict.CLIPPED_UPDATES: 1}
    assert report.norm == pytest.approx(5.0)
    assert total.sum[0] == pytest.approx(6.0)
    assert (total.weight, total.count) == (3.0, 1)


def test_a_delta_is_clipped_long_before_it_is_refused() -> None:
    validator = DeltaValidator(Aggregation(), ONE)

    clipped, refused = admitted(validator, of_norm(99.0)), validator.validate(of_norm(101.0), LAYOUT, "codec")

    assert clipped.scale == pytest.approx(3.0 / 99.0)
    assert isinstance(refused, RejectedReport)
    assert refused.verdict is Verdict.NORM_EXCEEDED


def test_the_bound_looks_at_the_delta_before_its_rows_are_clipped() -> None:
    validator = DeltaValidator(Aggregation(row_clip_norm=1.0, max_norm_ratio=10.0), ONE)

    assert isinstance(validator.validate(of_norm(10.1), LAYOUT, "codec"), RejectedReport)


@pytest.mark.parametrize("norm", [1.1e6, math.inf, math.nan])
@pytest.mark.parametrize("scales", [{}, {"codec": NormScale.initial(1e6)}], ids=["no scale", "a huge one"])
def test_what_is_beyond_all_reason_is_refused_whatever_the_task_says(
    norm: float, scales: dict[str, NormScale]
) -> None:
    validator = DeltaValidator(Aggregation(max_norm_ratio=0.0, clip_norm_ratio=0.0), scales)

    assert isinstance(validator.validate(of_norm(norm), LAYOUT, "codec"), RejectedReport)


def test_each_codec_table_has_a_scale_of_its_own() -> None:
    scales = {**ONE, "codec_by_network.slow": NormScale.initial(10.0)}
    validator = DeltaValidator(Aggregation(clip_norm_ratio=2.0), scales)

    by_table = [validator.validate(of_norm(5.0), LAYOUT, table) for table in scales]

    assert [one.scale for one in by_table if isinstance(one, AdmittedReport)] == [pytest.approx(0.4), 1.0]


def test_a_delta_below_a_hundredth_of_the_scale_is_summed_and_is_thin() -> None:
    validator = DeltaValidator(Aggregation(), ONE)

    report = [admitted(validator, of_norm(norm)) for norm in (0.0, 0.0099, 0.0101)]

    assert [(one.is_thin, one.norm is None) for one in report] == [(True, True), (True, True), (False, False)]
    assert report[0].counts == {Verdict.THIN_REPORTS: 1}


def test_without_a_scale_nothing_is_clipped_and_only_a_delta_of_zeros_is_thin() -> None:
    validator = DeltaValidator(Aggregation(clip_norm_ratio=1.0), {})

    report = [admitted(validator, of_norm(norm)) for norm in (0.0, 1e-6, 1.0, 50.0)]

    assert [(one.scale, one.is_thin) for one in report] == [(1.0, True), *[(1.0, False)] * 3]


def test_an_ordinary_delta_passes_as_it_is() -> None:
    update = of_norm(1.0)

    report = admitted(DeltaValidator(Aggregation(), ONE), update)

    assert report.update is update
    assert report.counts == {}


def next_norm(norm: float) -> float:
    return float(np.nextafter(np.float32(norm), np.float32(np.inf)))


def norm_before(norm: float) -> float:
    return float(np.nextafter(np.float32(norm), np.float32(0)))


def test_a_norm_at_the_bound_is_admitted_and_the_next_is_not() -> None:
    for validator, bound in (
        (DeltaValidator(Aggregation(max_norm_ratio=2.0), ONE), 2.0),
        (DeltaValidator(Aggregation(max_norm_ratio=0.0), ONE), 1e6),
        (DeltaValidator(Aggregation(max_norm_ratio=2.0), {}), 1e6),
        (DeltaValidator(Aggregation(max_norm_ratio=2.0), {"codec": NormScale.initial(1e6)}), 1e6),
    ):
        assert isinstance(validator.validate(of_norm(bound), LAYOUT, "codec"), AdmittedReport)
        assert isinstance(validator.validate(of_norm(next_norm(bound)), LAYOUT, "codec"), RejectedReport)


def test_a_hundredth_of_the_scale_is_not_thin() -> None:
    validator = DeltaValidator(Aggregation(), {"codec": NormScale.initial(100.0)})

    assert not admitted(validator, of_norm(1.0)).is_thin
    assert admitted(validator, of_norm(norm_before(1.0))).is_thin


@pytest.mark.parametrize(
    ("ratio", "norm", "rows"), [(0.0, 0.0, 0), (0.0, 4.0, 1), (1.5, 0.0, 1), (1.5, 100.0, 1), (9.0, 100.0, 0)]
)
def test_either_bound_of_rows_is_enough(ratio: float, norm: float, rows: int) -> None:
    rules = Aggregation(row_clip_ratio=ratio, row_clip_norm=norm)
    validator = DeltaValidator(rules, {})
    update = sparse(delta((0.0, 10.0), (0.0, 1.0), (0.0, 0.0), (0.0, 2.0)))

    report = admitted(validator, update)

    assert report.clipped_rows == rows
    assert report.counts == ({Verdict.CLIPPED_ROWS: 1} if rows else {})
    assert (report.update is update) == (rows == 0)
    again = validator.clipped(update, LAYOUT)
    np.testing.assert_array_equal(again.dense(), report.update.dense())


def test_the_lower_of_two_bounds_of_rows_holds() -> None:
    # The median of 10, 1 and 2 is 2.
    before = DenseUpdate(delta((0.0, 10.0), (0.0, 1.0), (0.0, 0.0), (0.0, 2.0)))

    for ratio, norm, expected in ((1.5, 100.0, 3.0), (1.5, 2.5, 2.5), (100.0, 4.0, 4.0)):
        clipped = clip_rows(before, ROWS, max_ratio=ratio, max_norm=norm)
        assert clipped.update.dense()[1] == pytest.approx(expected)


@pytest.mark.parametrize("form", [DenseUpdate, sparse], ids=["dense", "sparse"])
def test_a_row_at_the_bound_keeps_its_bits_and_a_table_of_zeros_is_left_alone(
    form: type[DenseUpdate],
) -> None:
    at_the_bound, zeros = form(delta((3.0, 4.0))), form(delta((0.0, 0.0)))

    assert clip_rows(at_the_bound, ROWS, max_ratio=0.0, max_norm=5.0) == (at_the_bound, 0)
    assert clip_rows(at_the_bound, ROWS, max_ratio=0.0, max_norm=4.99).rows == 1
    assert clip_rows(zeros, ROWS, max_ratio=1.0, max_norm=0.0) == (zeros, 0)


@pytest.mark.parametrize("form", [DenseUpdate, sparse], ids=["dense", "sparse"])
def test_only_the_rows_of_words_are_clipped_wherever_they_are(form: type[DenseUpdate]) -> None:
    vector = np.array([9, 3, 4, 0, 1, 9], np.float32)

    clipped = clip_rows(form(vector), WordRows(start=1, rows=2, width=2), max_ratio=0.0, max_norm=1.0)

    assert clipped.rows == 1
    np.testing.assert_allclose(clipped.update.dense(), [9, 0.6, 0.8, 0, 1, 9], rtol=1e-6)


def test_a_delta_is_clipped_by_what_its_rows_left_of_it() -> None:
    rules = Aggregation(row_clip_norm=2.0, clip_norm_ratio=1.0)

    report = admitted(DeltaValidator(rules, ONE), of_norm(4.0))

    assert report.clipped_rows == 1
    assert report.scale == pytest.approx(0.5)


def test_a_table_of_words_has_two_dimensions() -> None:
    names, shapes = ("gain", "embedding"), ((3,), (4, 2))

    assert WordRows.of(ParamLayout(names=names, shapes=shapes)) == WordRows(start=3, rows=4, width=2)
    assert WordRows.of(ParamLayout(names=("embedding",), shapes=((3,),))) is None
    assert WordRows.of(ParamLayout(names=("other",), shapes=((4, 2),))) is None
