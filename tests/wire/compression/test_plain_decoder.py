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
from keyflock_compression.cells import cells_of
from keyflock_compression.container import Container
from keyflock_compression.entropy import compress

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


#: Steps and largest values from zero to the largest number; 2**104 times the largest magnitude is too much.
scales = st.sampled_from([0.0, 1e-45, 0.01, 1.5, 2.0**103, 2.0**104, 2.0**105, 3.4e38])


def any_streams(layout: AnyLayout, codec: str, rng: np.random.Generator) -> list[bytes]:
    """Streams as no encoder makes them: most within every limit, some a little beyond one."""
    lengths = cells_of(layout).lengths
    in_use = rng.random(lengths.size) < rng.choice([0.0, 0.1, 1.0])
    gaps, counts = list[int](), list[int]()
    for length in lengths[in_use]:
        end = int(length) + int(rng.random() < 0.01)
        places = np.sort(
            rng.choice(end, rng.integers(1, 1 + min(end, rng.choice([1, 3, 128]))), replace=False)
        )
        gaps += (np.diff(places, prepend=-1) - 1).tolist()
        counts.append(places.size - 1)
    symbols = 2 * np.array(gaps, np.int64) + rng.integers(0, 2, len(gaps))
    magnitudes = rng.choice([0, 1, 254, 255], int((symbols & 1).sum()), p=[0.5, 0.3, 0.1, 0.1])
    outliers = rng.choice([257, 300, 2**23], int((magnitudes == 255).sum()))
    if rng.random() < 0.1:
        outliers += rng.choice([-1, 1, 2**30])
    signs = np.packbits(rng.random(len(gaps)) < 0.5, bitorder="little")
    levels = rng.integers(0, 256, len(gaps))
    values = [levels] if codec == "topk" else [signs, magnitudes, outliers.astype("<i4").view(np.uint8)]
    found = [np.packbits(in_use, bitorder="little"), counts, symbols, *values]
    streams = [np.array(one).astype(np.uint8).tobytes() for one in found]
    if rng.random() < 0.1:
        number = rng.integers(len(streams))
        streams[number] = [streams[number] + b"\x80", streams[number][1:], streams[number][:-1] + b"\xff"][
            rng.integers(3)
        ]
    return streams


@settings(max_examples=200)
@given(
    shapes=shapes,
    scale=scales,
    seed=st.integers(0, 2**32 - 1),
    spec=st.sampled_from(
        [DEFAULT_SPEC, SPECS[1], TopkSpec(keep_ratio=1.0), TopkSpec(keep_ratio=1.0, entropy="none")]
    ),
)
def test_both_decoders_agree_on_any_positions_and_values_or_both_refuse(
    shapes: Shapes, scale: float, seed: int, spec: CodecSpec
) -> None:
    layout = AnyLayout(shapes)
    streams = any_streams(layout, spec.codec, np.random.default_rng(seed))
    if spec.entropy == "zstd":
        streams = [compress(stream, 3) for stream in streams]
    scale_bytes = np.array([scale], "<f4").tobytes()
    data = Container(spec.to_wire(), layout.digest, scale_bytes, tuple(streams)).to_bytes()

    try:
        plain = np.array(plain_decode(data, layout.shapes, layout.digest), np.float64)
    except DecodeRefused:
        with pytest.raises(CodecError):
            decode(data, layout, spec=spec)
        return
    np.testing.assert_array_equal(decode(data, layout, spec=spec).dense().astype(np.float64), plain)
    np.testing.assert_array_equal(decode(data, layout).dense().astype(np.float64), plain)
