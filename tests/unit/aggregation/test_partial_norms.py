"""Norms travel with the sum that they belong to, as counts; sums of earlier releases have none."""

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from keyflock_compression.update import DenseUpdate
from keyflock_server.aggregation.partial_aggregate import CorruptedAggregate, PartialAggregate

pytestmark = pytest.mark.fault("D10")

SIZE = 5


def aggregate(*norms: float, table: str = "codec") -> PartialAggregate:
    total = PartialAggregate(SIZE)
    for norm in norms:
        vector: NDArray[np.float32] = np.zeros(SIZE, np.float32)
        vector[0] = norm
        total.add(DenseUpdate(vector), 1.0)
        total.norms.add(table, norm)
    return total


def test_counts_are_read_back_as_they_were_written() -> None:
    total = aggregate(1.0, 2.0, 4.0)
    total.norms.add("codec_by_network.slow", 8.0)

    back = PartialAggregate.from_bytes(total.to_bytes(), SIZE)

    assert (back.norms.count("codec"), back.norms.count("codec_by_network.slow")) == (3, 1)
    assert back.norms.median("codec") == total.norms.median("codec")
    assert back.to_bytes() == total.to_bytes()


def test_sums_that_are_merged_have_all_counts() -> None:
    both = aggregate(1.0, 2.0).merged(aggregate(4.0))

    assert (both.count, both.norms.count("codec")) == (3, 3)


def test_a_sum_of_an_earlier_release_is_read_and_can_be_merged() -> None:
    earlier = PartialAggregate(SIZE)
    earlier.add(DenseUpdate(np.ones(SIZE, np.float32)), 2.0)

    back = PartialAggregate.from_bytes(earlier.to_bytes(), SIZE)

    assert set(load(earlier.to_bytes())) == {"sum", "weight", "count", "digest"}
    assert back.norms.counts == {}
    assert back.merged(aggregate(1.0)).norms.count("codec") == 1


@pytest.mark.parametrize("counts", [np.zeros(3, np.int64), np.zeros(120, np.float32)], ids=["bins", "type"])
def test_counts_of_another_form_are_damage(counts: NDArray[np.generic]) -> None:
    tensors = load(aggregate(1.0).to_bytes()) | {"norms.codec": counts}

    with pytest.raises(CorruptedAggregate, match="the counts of norms have other bins"):
        PartialAggregate.from_bytes(save(tensors), SIZE)


def test_counts_that_were_changed_do_not_match_the_digest() -> None:
    tensors = load(aggregate(1.0).to_bytes())
    tensors["norms.codec"] = tensors["norms.codec"] + 1

    with pytest.raises(CorruptedAggregate, match="the digest does not match"):
        PartialAggregate.from_bytes(save(tensors), SIZE)


def test_no_norm_is_stored_by_itself() -> None:
    one, other = aggregate(1.000, 1.100, 1.200, 1.300), aggregate(1.050, 1.150, 1.250, 1.350)

    assert one.norms.counts["codec"].tolist() == other.norms.counts["codec"].tolist()
