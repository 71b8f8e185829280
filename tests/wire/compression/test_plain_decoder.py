"""The document says enough: a decoder written from it alone agrees with the server's, bit for bit."""

from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wire.compression.plain_decoder import DecodeRefused, Shapes, plain_decode
from tests.wire.compression.write_vectors import LAYOUT, VECTORS

from keyflock_compression import (
    DEFAULT_SPEC,
    CodecError,
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    Float32Spec,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    decode,
    encode,
)

GOOD = sorted(path.stem for path in VECTORS.glob("*.bin") if not path.stem.startswith("malformed_"))
BAD = sorted(path.stem for path in VECTORS.glob("malformed_*.bin"))
SPECS = [
    DEFAULT_SPEC,
    DeadzoneRowsSpec(step_rms=0.001, entropy="none"),
    DeadzoneRowsSpec(step_rms=2.0, rounding="stochastic"),
    DeadzoneSpec(step_rms=0.01),
    DeadzoneSpec(target_nmse=0.1, entropy="none"),
    TopkSpec(keep_ratio=0.03),
    TopkSpec(keep_ratio=1.0, entropy="none"),
    TopkSpec(keep_ratio=0.03, selection="sampled"),
    RandmaskSpec(keep_ratio=0.01, rounding="stochastic"),
    RandmaskSpec(keep_ratio=0.4, entropy="none"),
    RowsetSpec(bits=2, step=0.5, row_start=0, row_count=1),
    RowsetSpec(bits=16, step=1e-4, row_start=0, row_count=0, rounding="stochastic"),
    RotatedSpec(bits=1),
    RotatedSpec(bits=2, entropy="none"),
    RotatedSpec(bits=4),
    DenseSpec(),
    DenseSpec(bits=4),
    DenseSpec(bits=2, rounding="stochastic"),
    DenseSpec(bits=1, entropy="none"),
    Float32Spec(),
]


@dataclass(frozen=True)
class AnyLayout:
    shapes: Shapes
    digest: bytes = b"any layout at al"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(len(self.shapes)))

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(sum(prod(shape) for shape in self.shapes[:end]) for end in range(len(self.shapes)))

    @property
    def size(self) -> int:
        return sum(prod(shape) for shape in self.shapes)


#: Rows of one value, of a cell, of one more than a cell; read by rows and by columns; three axes.
shapes = st.lists(
    st.sampled_from(
        [(1,), (130,), (3, 128), (129, 2), (2, 129), (129, 130), (5, 5), (2, 3, 4), (1, 9), (9, 1)]
    ),
    min_size=1,
    max_size=4,
).map(tuple)


def agreed(data: bytes, layout: AnyLayout) -> None:
    plain = np.array(plain_decode(data, layout.shapes, layout.digest), np.float64)

    # Both zeros are zero: a sparse update has no place for a negative one.
    np.testing.assert_array_equal(decode(data, layout).dense().astype(np.float64), plain)


@pytest.mark.parametrize("name", GOOD)
def test_both_decoders_agree_on_every_golden_vector(name: str) -> None:
    agreed((VECTORS / f"{name}.bin").read_bytes(), AnyLayout(LAYOUT.shapes, LAYOUT.digest))


@pytest.mark.parametrize("name", BAD)
def test_both_decoders_refuse_every_malformed_vector(name: str) -> None:
    data = (VECTORS / f"{name}.bin").read_bytes()

    with pytest.raises(CodecError):
        decode(data, LAYOUT)
    with pytest.raises(DecodeRefused):
        plain_decode(data, LAYOUT.shapes, LAYOUT.digest)


@settings(max_examples=60)  # plain loops over up to 17,000 values
@given(shapes=shapes, spec=st.sampled_from(SPECS), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_both_decoders_agree_on_any_delta_of_any_layout(
    shapes: Shapes, spec: CodecSpec, seed: int, data: st.DataObject
) -> None:
    layout = AnyLayout(shapes)
    rng = np.random.default_rng(seed)
    delta = rng.standard_normal(layout.size) * np.exp(3 * rng.standard_normal(layout.size))
    delta[rng.random(layout.size) < data.draw(st.sampled_from([0.0, 0.5, 0.97, 1.0]))] = 0

    agreed(encode(delta.astype(np.float32), layout, spec, seed=seed), layout)
