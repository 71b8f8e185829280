"""Every number has a delta of its own, which costs a server the same."""

import numpy as np
import pytest

from keyflock_compression import DEFAULT_SPEC, decode, encode
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.payload import synthetic_delta
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout

LAYOUT = ParamLayout.for_config(ModelConfig.named("tiny"))


@pytest.fixture(scope="module")
def deltas() -> DistinctDeltas:
    vectors = [synthetic_delta(LAYOUT, np.random.default_rng(seed)) for seed in range(2)]
    return DistinctDeltas([encode(one, LAYOUT, DEFAULT_SPEC, seed=0) for one in vectors])


def test_deltas_of_different_numbers_have_different_values(deltas: DistinctDeltas) -> None:
    numbers = [*range(200), 99_999, 100_000]

    decoded = [decode(deltas[number], LAYOUT, spec=DEFAULT_SPEC).dense() for number in numbers]

    assert len({one.tobytes() for one in decoded}) == len(numbers)


def test_a_later_delta_is_hardly_shorter(deltas: DistinctDeltas) -> None:
    first, later = (decode(deltas[number], LAYOUT).dense() for number in (0, 2_000))

    assert np.count_nonzero(first) == np.count_nonzero(later)
    np.testing.assert_allclose(later, first * (1.0 - 1_000 * 2.0**-20), rtol=1e-6)


def test_there_is_an_end_before_deltas_become_short(deltas: DistinctDeltas) -> None:
    with pytest.raises(IndexError):
        deltas[300_000]
