"""The norm scale: it begins with the server's own delta, moves slowly and never far."""

from itertools import repeat

import numpy as np
import pytest

from keyflock_compression import Float32Spec, RandmaskSpec, RowsetSpec, TopkSpec
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.norm_histogram import NormHistogram
from keyflock_server.aggregation.norm_scale import (
    NormScale,
    initial_scales,
    scales_after_round,
    scales_from_json,
    scales_to_json,
)

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=40, embedding_size=4, hidden_size=6))
FLOAT32 = Float32Spec().to_wire()
ONE = {"codec": NormScale.initial(1.0)}


def norms_of(*norms: float, table: str = "codec") -> NormHistogram:
    histogram = NormHistogram()
    for norm in norms:
        histogram.add(table, norm)
    return histogram


def after_rounds(count: int, *norms: float) -> float:
    scales = ONE
    for _ in range(count):
        scales = scales_after_round(scales, norms_of(*norms))
    return scales["codec"].scale


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("norm", "after_one", "in_the_end"), [(1e-5, 0.8, 0.25), (1e5, 1.25, 8.0), (1e-30, 0.8, 0.25)]
)
def test_a_round_moves_a_scale_by_a_quarter_at_most_and_all_rounds_by_a_bounded_factor(
    norm: float, after_one: float, in_the_end: float
) -> None:
    eight = [norm] * 8

    assert after_rounds(1, *eight) == pytest.approx(after_one)
    assert after_rounds(100, *eight) == pytest.approx(in_the_end)


@pytest.mark.fault("D10")
def test_a_scale_that_was_pulled_away_comes_back_with_honest_rounds() -> None:
    scales = {"codec": NormScale(scale=0.25, reference=1.0)}

    for _ in range(10):
        scales = scales_after_round(scales, norms_of(*repeat(1.0, 12)))

    assert scales["codec"].scale == pytest.approx(1.0, rel=0.2)


@pytest.mark.fault("D10")
def test_too_few_norms_move_nothing() -> None:
    assert after_rounds(10, *repeat(5.0, 7)) == 1.0
    assert after_rounds(1) == 1.0


def test_a_table_follows_its_own_reports_alone() -> None:
    scales = {**ONE, "codec_by_network.slow": NormScale.initial(3.0)}

    after = scales_after_round(scales, norms_of(*repeat(9.0, 8), table="codec_by_network.slow"))

    assert (after["codec"].scale, after["codec_by_network.slow"].scale) == (1.0, 3.75)


def test_the_median_is_found_within_its_coarse_bin() -> None:
    norms = np.random.default_rng(0).lognormal(0.0, 0.7, 501)

    assert norms_of(*norms).median("codec") == pytest.approx(np.median(norms), rel=0.1)


def test_norms_beyond_the_bins_count_in_the_outermost() -> None:
    histogram = norms_of(1e-30, 1e30)

    assert histogram.count("codec") == 2
    assert histogram.counts["codec"][[0, -1]].tolist() == [1, 1]


def test_histograms_of_several_processes_add_up_in_any_order() -> None:
    one, other = norms_of(1.0, 2.0), norms_of(4.0)
    other.add("codec_by_network.slow", 8.0)

    both, turned = one.merged(other), other.merged(one)

    assert (both.count("codec"), both.count("codec_by_network.slow"), one.count("codec")) == (3, 1, 2)
    assert {table: counts.tolist() for table, counts in both.counts.items()} == {
        table: counts.tolist() for table, counts in turned.counts.items()
    }


@pytest.mark.fault("D10")
def test_a_scale_begins_with_the_reference_as_its_codec_sends_it() -> None:
    delta = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    rare = RandmaskSpec(keep_ratio=0.1).to_wire()
    few = TopkSpec(keep_ratio=0.1).to_wire()

    scales = initial_scales(delta, LAYOUT, {"codec": FLOAT32, "rare": rare, "few": few})

    whole = scales["codec"]
    assert whole.scale == whole.reference == pytest.approx(float(np.linalg.norm(delta)))
    # A mask multiplies what it keeps by ten, and the norm by the root of it.
    assert 2.0 < scales["rare"].scale / whole.scale < 4.5
    assert 0.4 < scales["few"].scale / whole.scale < 0.9


def test_a_reference_that_a_codec_rounds_away_leaves_a_scale_all_the_same() -> None:
    delta = np.full(LAYOUT.size, 1e-4, np.float32)
    coarse = RowsetSpec(bits=8, step=1.0, row_start=0, row_count=40).to_wire()

    scale = initial_scales(delta, LAYOUT, {"codec": coarse})["codec"].scale

    assert scale == pytest.approx(1e-3 * float(np.linalg.norm(delta)))


def test_a_reference_of_zeros_is_none() -> None:
    assert initial_scales(np.zeros(LAYOUT.size, np.float32), LAYOUT, {"codec": FLOAT32}) == {}


def test_scales_are_stored_and_read_back() -> None:
    scales = {"codec": NormScale(scale=0.5, reference=0.4)}

    assert scales_from_json(scales_to_json(scales)) == scales
    assert scales_from_json(None) == {}
