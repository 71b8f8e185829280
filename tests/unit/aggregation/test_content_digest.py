"""The content digest distinguishes reports by their numbers, not by their bytes."""

import numpy as np
import pytest

from keyflock_compression import Float32Spec, decode, encode
from keyflock_compression.update import DenseUpdate, SparseUpdate
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


@pytest.mark.fault("D3")
def test_the_same_numbers_in_another_form_or_order_have_the_same_digest() -> None:
    dense = np.zeros(9, np.float32)
    dense[[2, 5]] = [1.0, -3.0]

    forms = [
        DenseUpdate(dense),
        SparseUpdate(9, np.array([2, 5]), np.array([1.0, -3.0], np.float32)),
        SparseUpdate(9, np.array([5, 7, 2]), np.array([-3.0, 0.0, 1.0], np.float32)),
    ]

    assert len({content_digest(form) for form in forms}) == 1


def test_another_value_or_another_place_has_another_digest() -> None:
    places, values = np.array([2, 5]), np.array([1.0, -3.0], np.float32)
    near = np.nextafter(values, np.float32(9.0))

    digests = {
        content_digest(SparseUpdate(9, where, what))
        for where in (places, places + 1)
        for what in (values, near)
    }

    assert len(digests) == 4
