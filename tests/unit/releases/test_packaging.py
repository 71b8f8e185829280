"""A version's download: what phones train from, the same bytes for the same weights."""

import hashlib

import numpy as np
import pytest

from keyflock_compression import CodecError, decode_weights, nmse
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.releases.model_version import package

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=500, embedding_size=96, hidden_size=100))
WEIGHTS = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)


def test_phones_get_about_a_byte_a_parameter_and_weights_close_to_the_servers() -> None:
    download = package(WEIGHTS, LAYOUT)

    received = decode_weights(download.body, LAYOUT)

    assert len(download.body) < 1.2 * LAYOUT.size
    assert nmse(WEIGHTS, received) < 1e-3


def test_a_download_is_known_by_the_sha256_of_its_bytes() -> None:
    download = package(WEIGHTS, LAYOUT)

    assert download.digest == hashlib.sha256(download.body).digest()


def test_the_same_weights_give_the_same_bytes_after_a_crash_too() -> None:
    assert package(WEIGHTS.copy(), LAYOUT) == package(WEIGHTS, LAYOUT)


def test_weights_that_are_not_finite_are_never_published() -> None:
    broken = WEIGHTS.copy()
    broken[7] = np.nan

    with pytest.raises(CodecError):
        package(broken, LAYOUT)
