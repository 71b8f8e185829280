"""Norms travel with the sum that they belong to, as counts; sums of earlier releases have none."""

import hashlib

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


def earlier_bytes(total: PartialAggregate) -> bytes:
    """Return the sum as releases wrote it that had a BLAKE2b digest in place of the checksum."""
    tensors = load(total.to_bytes())
    del tensors["crc32"]
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        hasher.update(tensors[name].tobytes())
    return save(tensors | {"digest": np.frombuffer(hasher.digest(), np.uint8)})


def test_a_sum_of_the_first_release_is_read_and_can_be_merged() -> None:
    earlier = PartialAggregate(SIZE)
    earlier.add(DenseUpdate(np.ones(SIZE, np.float32)), 2.0)
    written = earlier_bytes(earlier)

    back = PartialAggregate.from_bytes(written, SIZE)

    assert set(load(written)) == {"sum", "weight", "count", "digest"}
    assert (back.count, back.weight, back.norms.counts) == (1, 2.0, {})
    assert back.merged(aggregate(1.0)).norms.count("codec") == 1


def test_a_sum_of_an_earlier_release_is_read_and_its_damage_found() -> None:
    written = earlier_bytes(aggregate(1.0, 2.0))

    assert PartialAggregate.from_bytes(written, SIZE).to_bytes() == aggregate(1.0, 2.0).to_bytes()
    for position in range(len(written) - 4 * SIZE, len(written), 3):
        damaged = bytearray(written)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptedAggregate):
            PartialAggregate.from_bytes(bytes(damaged), SIZE)


def test_counts_under_another_tables_name_are_damage() -> None:
    written = aggregate(1.0).to_bytes().replace(b"norms.codec", b"norms.cedoc")

    with pytest.raises(CorruptedAggregate, match="the checksum does not match"):
        PartialAggregate.from_bytes(written, SIZE)


@pytest.mark.parametrize("counts", [np.zeros(3, np.int64), np.zeros(120, np.float32)], ids=["bins", "type"])
def test_counts_of_another_form_are_damage(counts: NDArray[np.generic]) -> None:
    tensors = load(aggregate(1.0).to_bytes()) | {"norms.codec": counts}

    with pytest.raises(CorruptedAggregate, match="the counts of norms have other bins"):
        PartialAggregate.from_bytes(save(tensors), SIZE)


def test_counts_that_were_changed_do_not_match_the_checksum() -> None:
    tensors = load(aggregate(1.0).to_bytes())
    tensors["norms.codec"] = tensors["norms.codec"] + 1

    with pytest.raises(CorruptedAggregate, match="the checksum does not match"):
        PartialAggregate.from_bytes(save(tensors), SIZE)


def test_no_norm_is_stored_by_itself() -> None:
    one, other = aggregate(1.000, 1.100, 1.200, 1.300), aggregate(1.050, 1.150, 1.250, 1.350)

    assert one.norms.counts["codec"].tolist() == other.norms.counts["codec"].tolist()
