"""The content digest distinguishes reports by their numbers, not by their bytes."""

import numpy as np
import pytest

from keyflock_compression import DeadzoneRowsSpec, DeadzoneSpec, Float32Spec, decode, encode
from keyflock_compression.update import SparseUpdate
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.content_digest import content_digest

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=40, embedding_size=4, hidden_size=6))


@pytest.mark.fault("D3")
def test_the_same_numbers_packed_otherwise_have_the_same_digest() -> None:
    delta = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    specs = [Float32Spec(zstd_level=level) for level in (1, 19)]
    specs.append(Float32Spec(entropy="none"))
    containers = [encode(delta, LAYOUT, spec, seed=0) for spec in specs]

    digests = {
        content_digest(decode(one, LAYOUT, spec=spec)) for one, spec in zip(containers, specs, strict=True)
    }

    assert len(set(containers)) == 3
    assert len(digests) == 1


def test_another_value_or_another_place_has_another_digest() -> None:
    places, values = np.array([2, 5]), np.array([1.0, -3.0], np.float32)
    near = np.nextafter(values, np.float32(9.0))

    digests = {
        content_digest(SparseUpdate(9, where, what))
        for where in (places, places + 1)
        for what in (values, near)
    }

    assert len(digests) == 4


def test_what_two_codecs_decode_to_the_same_numbers_has_one_digest() -> None:
    delta = (np.random.default_rng(1).standard_t(2, LAYOUT.size)).astype(np.float32)
    specs = (DeadzoneSpec(target_nmse=0.16), DeadzoneRowsSpec(target_nmse=0.16))
    updates = [decode(encode(delta, LAYOUT, spec, seed=0), LAYOUT) for spec in specs]

    assert updates[0].dense().tobytes() == updates[1].dense().tobytes()
    assert len({content_digest(one) for one in updates}) == 1


def test_few_equal_values_elsewhere_have_another_digest() -> None:
    # Positions with equal sums, and equal sums of squares; values exchanged, and signs.
    one, two = np.float32(1), np.float32(2)
    vectors = [
        ([0, 4, 5], [one, one, one]),
        ([1, 2, 6], [one, one, one]),
        ([0, 3, 6], [one, one, one]),
        ([0, 4, 5], [one, two, one]),
        ([0, 4, 5], [two, one, one]),
        ([0, 4, 5], [-one, -one, one]),
        ([0, 4, 5], [one, -one, -one]),
        ([0, 4], [one, one]),
        ([], []),
    ]

    digests = {
        content_digest(SparseUpdate(9, np.array(where, np.int32), np.array(what, np.float32)))
        for where, what in vectors
    }

    assert len(digests) == len(vectors)
