"""The bytes between two models stay what they are, and a decoder from the document alone reads them."""

import tomllib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.compression.plain_decoder import DecodeRefused, plain_apply
from tests.wire.compression.write_delta_vectors import (
    BASE,
    LAYOUT_DIGEST,
    MODELS,
    VECTORS,
    malformed,
    rows,
)
from zstandard import ZstdDecompressor

from keyflock_compression import CodecError, apply_weights_delta, encode_weights_delta
from keyflock_compression.row_weights import RowWeights, read_row_weights

GOOD = sorted(path.stem for path in VECTORS.glob("*.bin") if not path.stem.startswith("malformed_"))
BAD = sorted(path.stem for path in VECTORS.glob("malformed_*.bin"))
ONE = rows(*BASE).to_container()


def test_every_kind_of_delta_and_of_malformed_input_has_its_vector() -> None:
    assert set(GOOD) >= set(MODELS)
    assert set(BAD) >= {f"malformed_{name}" for name, *_ in malformed()}


def unpacked(delta: bytes) -> dict[str, Any]:
    """All fields but the digest, and the streams before the entropy stage."""
    fields: dict[str, Any] = msgpack.unpackb(delta)
    del fields["digest"]
    return fields | {"streams": [ZstdDecompressor().decompress(frame) for frame in fields["streams"]]}


@pytest.mark.parametrize("name", GOOD)
def test_a_delta_makes_of_its_base_what_its_vector_says(name: str) -> None:
    meaning = tomllib.loads((VECTORS / f"{name}.toml").read_text())
    data = (VECTORS / f"{name}.bin").read_bytes()
    wanted = bytes.fromhex(meaning["content_digest"])

    made = read_row_weights(apply_weights_delta(data, ONE, result=wanted))

    np.testing.assert_array_equal(made.scales, np.array(meaning["scales"], np.float32))
    np.testing.assert_array_equal(made.quantized, meaning["whole"])
    assert made.content_digest == wanted
    # zstd may find other bytes for the same content in another release.
    assert unpacked(encode_weights_delta(made.to_container(), ONE)) == unpacked(data)
    scales, whole = plain_apply(data, ONE)
    np.testing.assert_array_equal(np.array(scales, np.float32), made.scales)
    np.testing.assert_array_equal(whole, made.quantized)


@pytest.mark.parametrize("name", BAD)
def test_both_decoders_refuse_every_malformed_delta(name: str) -> None:
    meaning = tomllib.loads((VECTORS / f"{name}.toml").read_text())
    data = (VECTORS / f"{name}.bin").read_bytes()

    with pytest.raises(CodecError) as error:
        apply_weights_delta(data, ONE)

    assert error.value.code == meaning["error"]
    with pytest.raises(DecodeRefused):
        plain_apply(data, ONE)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 700), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_both_decoders_agree_on_any_two_models(seed: int, size: int, share: float) -> None:
    rng = np.random.default_rng(seed)

    def model() -> RowWeights:
        scales = rng.random(1 + size // 50).astype(np.float32)
        return RowWeights(LAYOUT_DIGEST, scales, rng.integers(-128, 128, size).astype(np.int8))

    before, other = model(), model()
    whole = np.where(rng.random(size) < share, other.quantized, before.quantized)
    after = RowWeights(LAYOUT_DIGEST, other.scales, whole)

    delta = encode_weights_delta(after.to_container(), before.to_container())

    scales, numbers = plain_apply(delta, before.to_container())
    np.testing.assert_array_equal(np.array(scales, np.float32), after.scales)
    np.testing.assert_array_equal(numbers, after.quantized)
