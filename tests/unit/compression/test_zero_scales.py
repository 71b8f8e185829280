"""A scale of zero scales zeros only: what an encoder writes of the smallest deltas is always read again."""

import numpy as np
import pytest
from tests.wire.compression.write_vectors import LAYOUT, malformed_zeros

from keyflock_compression import (
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    MalformedContainer,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    decode,
    encode,
)
from keyflock_compression.container import Container

pytestmark = pytest.mark.fault("F12")

TINY = np.float32(1e-45)  # the smallest number above zero
SPECS: list[CodecSpec] = [
    DeadzoneSpec(step_rms=0.01),
    DeadzoneSpec(target_nmse=0.1, rounding="stochastic"),
    DeadzoneRowsSpec(step_rms=0.01),
    DeadzoneRowsSpec(target_nmse=0.1, rounding="stochastic"),
    TopkSpec(keep_ratio=0.5),
    RandmaskSpec(keep_ratio=0.3),
    RandmaskSpec(keep_ratio=1.0, rounding="stochastic"),
    RowsetSpec(bits=8, step=1e-30, row_start=0, row_count=2),
    RotatedSpec(bits=1),
    RotatedSpec(bits=4),
    DenseSpec(),
    DenseSpec(bits=4, rounding="stochastic"),
    DenseSpec(bits=2, rounding="stochastic"),
    DenseSpec(bits=1),
    DenseSpec(bits=1, rounding="stochastic"),
]
DELTAS = {
    "zeros": np.zeros(10, np.float32),
    "minus zeros": np.full(10, -0.0, np.float32),
    "one tiny": np.eye(1, 10, 3, dtype=np.float32)[0] * -TINY,
    "tiny": np.array([1, -1, 1, -1, -1, -1, -1, 1, -1, -1], np.float32) * TINY,
    "one row": np.array([0, 0, 0, 0, 0, 0, 1, -2, 0, 3], np.float32),
    "tiny and large": np.array([-TINY, TINY, -TINY, 1, -1, 0, -TINY, 0, 0, 0], np.float32),
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.codec}-{spec.rounding}")
@pytest.mark.parametrize("name", DELTAS)
def test_what_an_encoder_writes_is_read_again(name: str, spec: CodecSpec) -> None:
    for seed in range(8):
        container = encode(DELTAS[name], LAYOUT, spec, seed=seed)

        assert np.isfinite(decode(container, LAYOUT, spec=spec, seed=seed).dense()).all()


def test_a_draw_of_exactly_zero_rounds_no_row_without_a_scale_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """``floor(x + u)`` of a tiny negative x is -1 where u is 0, which comes once in 2**24 draws."""
    zeros = type("Zeros", (), {"random": lambda _self, shape, dtype: np.zeros(shape, dtype)})
    monkeypatch.setattr(np.random, "Generator", lambda _bits: zeros())

    for bits in (8, 4, 2, 1):
        spec = DenseSpec(bits=bits, rounding="stochastic")
        container = encode(DELTAS["tiny"], LAYOUT, spec, seed=1)
        assert decode(container, LAYOUT).dense().size == 10


@pytest.mark.parametrize(("name", "data"), [(one[0], one[1]) for one in malformed_zeros()])
def test_a_number_that_is_not_zero_and_whose_scale_is_has_no_meaning(name: str, data: bytes) -> None:
    del name
    with pytest.raises(MalformedContainer, match=r"scale is (0|negative)"):
        decode(data, LAYOUT)


def test_the_levels_of_a_block_of_zeros_mean_nothing_and_are_read() -> None:
    """The codec has no level zero, so any of them may stand in such a block."""
    spec = RotatedSpec(bits=4, entropy="none")
    for byte in (b"\x00", b"\x77", b"\xff"):
        streams = (bytes(8), byte * 8)
        container = Container(spec.to_wire(), LAYOUT.digest, bytes(4), streams).to_bytes()

        np.testing.assert_array_equal(decode(container, LAYOUT).dense(), np.zeros(10, np.float32))
