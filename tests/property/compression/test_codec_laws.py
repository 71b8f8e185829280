"""What every codec promises, whatever the delta and whatever the bytes."""

import tracemalloc
from dataclasses import dataclass
from math import sqrt

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    decode_weights,
    encode,
    encode_weights,
    nmse,
    parse_spec,
)

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class SmallLayout:
    """Two matrices and a vector."""

    names: tuple[str, ...] = ("embedding", "kernel", "bias")
    shapes: tuple[tuple[int, ...], ...] = ((30, 8), (8, 12), (12,))
    offsets: tuple[int, ...] = (0, 240, 336)
    size: int = 348
    digest: bytes = b"0123456789abcdef"


LAYOUT = SmallLayout()
SPECS = [
    DEFAULT_SPEC,
    DeadzoneSpec(target_nmse=0.13),
    DeadzoneSpec(step_rms=4.0),
    DeadzoneSpec(step_rms=0.001),
    DeadzoneRowsSpec(step_rms=0.001, entropy="none"),
    DeadzoneRowsSpec(step_rms=2.0, rounding="stochastic"),
    DeadzoneSpec(step_rms=2.0, rounding="stochastic", entropy="none"),
    DeadzoneSpec(target_nmse=0.3, rounding="stochastic"),
    TopkSpec(keep_ratio=0.1),
    TopkSpec(keep_ratio=1.0, entropy="none"),
    DenseSpec(),
    DenseSpec(rounding="stochastic", zstd_level=19),
    Float32Spec(),
    Float32Spec(entropy="none"),
    TopkSpec(keep_ratio=0.2, selection="sampled"),
    DenseSpec(bits=4),
    DenseSpec(bits=2, rounding="stochastic", entropy="none"),
    DenseSpec(bits=1),
    DenseSpec(bits=1, rounding="stochastic", entropy="none"),
    RandmaskSpec(keep_ratio=0.1),
    RandmaskSpec(keep_ratio=1.0, rounding="stochastic", entropy="none"),
    RowsetSpec(bits=16, step=1e-3, row_start=3, row_count=9, rounding="stochastic"),
    RowsetSpec(bits=4, step=1.0, row_start=0, row_count=30, entropy="none"),
    RotatedSpec(bits=1, entropy="none"),
    RotatedSpec(bits=2),
    RotatedSpec(bits=4),
]
specs = st.sampled_from(SPECS)


@st.composite
def deltas(draw: st.DrawFn) -> Vector:
    """Heavy-tailed and clustered in rows, of any scale, sometimes all zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6, 1e15]))
    values = rng.standard_normal(LAYOUT.size) * np.exp(2 * rng.standard_normal(LAYOUT.size))
    values[rng.random(LAYOUT.size) < draw(st.floats(0, 1))] = 0
    return (values * scale).astype(np.float32)


@given(delta=deltas(), spec=specs, seed=st.integers(0, 2**32 - 1))
def test_encoding_is_deterministic_and_decodes_to_the_right_layout(
    delta: Vector, spec: CodecSpec, seed: int
) -> None:
    data = encode(delta, LAYOUT, spec, seed=seed)

    assert data == encode(delta, LAYOUT, spec, seed=seed)
    update = decode(data, LAYOUT, spec=spec, seed=seed)
    assert update.size == LAYOUT.size
    assert update.dense().shape == (LAYOUT.size,)
    assert np.isfinite(update.dense()).all()


@given(delta=deltas(), spec=specs, weight=st.floats(0.5, 256.0))
def test_adding_an_update_equals_adding_its_dense_form(delta: Vector, spec: CodecSpec, weight: float) -> None:
    update = decode(encode(delta, LAYOUT, spec, seed=1), LAYOUT)
    sparse, dense = np.ones(LAYOUT.size, np.float32), np.ones(LAYOUT.size, np.float32)

    update.add_to(sparse, weight)
    dense += np.float32(weight) * update.dense()

    np.testing.assert_allclose(sparse, dense, rtol=1e-6)
    assert update.l2_norm == pytest.approx(float(np.linalg.norm(update.dense().astype(np.float64))), rel=1e-4)


@given(delta=deltas())
def test_float32_is_exact(delta: Vector) -> None:
    update = decode(encode(delta, LAYOUT, Float32Spec(), seed=0), LAYOUT)

    np.testing.assert_array_equal(update.dense(), delta)


@given(delta=deltas(), step=st.sampled_from([0.01, 0.5, 4.0, 30.0]), seed=st.integers(0, 99))
@pytest.mark.parametrize(("rounding", "steps"), [("nearest", 0.5), ("stochastic", 1.0)])
def test_a_deadzone_error_is_within_its_bound(
    rounding: str, steps: float, delta: Vector, step: float, seed: int
) -> None:
    spec = parse_spec({"codec": "deadzone", "step_rms": step, "rounding": rounding})
    decoded = decode(encode(delta, LAYOUT, spec, seed=seed), LAYOUT).dense()

    rms = sqrt(float(np.mean(np.square(delta, dtype=np.float64))))
    # A step is at least the largest value over 2**23, so that every whole number is exact in float32.
    rounding_error = 1e-5 * float(np.abs(delta).max()) + float(np.finfo(np.float32).tiny)
    assert float(np.abs(decoded - delta).max()) <= steps * step * rms + rounding_error


@given(
    delta=deltas(),
    seed=st.integers(0, 99),
    spec=st.sampled_from([spec for spec in SPECS if spec.codec == "deadzone"]),
)
def test_rows_hold_the_same_values_as_a_byte_for_every_value(
    delta: Vector, seed: int, spec: CodecSpec
) -> None:
    rows = parse_spec(spec.to_wire() | {"codec": "deadzone_rows"})

    decoded = [decode(encode(delta, LAYOUT, one, seed=seed), LAYOUT).dense() for one in (spec, rows)]

    np.testing.assert_array_equal(decoded[0], decoded[1])


@given(delta=deltas(), target=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_target_nmse_is_met(delta: Vector, target: float) -> None:
    spec = DeadzoneSpec(target_nmse=target)

    decoded = decode(encode(delta, LAYOUT, spec, seed=0), LAYOUT).dense()

    assert nmse(delta, decoded) <= target * (1 + 1e-3)


@settings(max_examples=50)  # each is twenty encodings
@given(
    delta=deltas(),
    budget=st.integers(512, 3_000),
    codec=st.sampled_from(["deadzone_rows", "deadzone"]),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    step=st.sampled_from([{}, {"target_nmse": 0.2}, {"step_rms": 0.5}]),
)
def test_a_budget_is_kept(
    delta: Vector, budget: int, codec: str, rounding: str, step: dict[str, float]
) -> None:
    spec = parse_spec({"codec": codec, "rounding": rounding, "budget_bytes": budget, **step})

    data = encode(delta, LAYOUT, spec, seed=0)

    assert len(data) <= budget
    assert decode(data, LAYOUT, spec=spec).size == LAYOUT.size


@given(delta=deltas(), ratio=st.sampled_from([0.001, 0.1, 0.5, 1.0]))
def test_topk_keeps_the_largest_values_nearly_as_they_are(delta: Vector, ratio: float) -> None:
    decoded = decode(encode(delta, LAYOUT, TopkSpec(keep_ratio=ratio), seed=0), LAYOUT).dense()

    expected_count = max(1, round(ratio * LAYOUT.size))
    order = np.argsort(-np.abs(delta), kind="stable")
    error = np.abs(decoded - delta)[order[:expected_count]]
    tiny = float(np.finfo(np.float32).tiny)
    assert (decoded[order[expected_count:]] == 0).all()
    assert (
        error <= 0.0452 * np.abs(delta)[order[:expected_count]] + 2.0**-31.9 * np.abs(delta).max() + tiny
    ).all()


@given(delta=deltas())
def test_a_dense_error_is_at_most_half_a_level_of_its_row(delta: Vector) -> None:
    decoded = decode(encode(delta, LAYOUT, DenseSpec(), seed=0), LAYOUT).dense()

    error, rows = np.abs(decoded - delta)[:240].reshape(30, 8), np.abs(delta)[:240].reshape(30, 8)
    tiny = float(np.finfo(np.float32).tiny)
    assert (error <= rows.max(axis=1, keepdims=True) * (0.5 / 127 + 1e-6) + tiny).all()


def check_hostile(data: bytes) -> None:
    try:
        update = decode(data, LAYOUT)
    except CodecError:
        return
    assert update.dense().shape == (LAYOUT.size,)
    assert np.isfinite(update.dense()).all()


@given(st.binary(max_size=400))
def test_any_bytes_are_an_update_or_a_codec_error(data: bytes) -> None:
    check_hostile(data)


@settings(max_examples=400)
@given(delta=deltas(), spec=specs, data=st.data())
def test_damaged_containers_are_an_update_or_a_codec_error(
    delta: Vector, spec: CodecSpec, data: st.DataObject
) -> None:
    container = bytearray(encode(delta, LAYOUT, spec, seed=0))
    for _ in range(data.draw(st.integers(1, 4))):
        container[data.draw(st.integers(0, len(container) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check_hostile(bytes(container[: data.draw(st.integers(0, len(container)))]))
    check_hostile(bytes(container))


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@settings(max_examples=300)
@given(field=st.sampled_from(["v", "spec", "layout", "scales", "streams", "digest"]), value=nested)
def test_a_container_with_any_value_in_a_field_is_an_update_or_a_codec_error(
    field: str, value: object
) -> None:
    fields = msgpack.unpackb(encode(np.ones(LAYOUT.size, np.float32), LAYOUT, DEFAULT_SPEC, seed=0))
    fields[field] = value

    check_hostile(msgpack.packb(fields))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x90" * 8_000_000,
        b"\x91" * 8_000_000,
        b"\x98" + b"\x98\x90\x90\x90\x90\x90\x90\x90\x90" * 800_000,
        b"\xdd\xff\xff\xff\xff" + b"\x90" * 8_000_000,
        b"\x86\xa1v\x01\xa4spec\x80\xa6layout" + b"\xc6\xff\xff\xff\xff",
    ],
    ids=["flat lists", "nested lists", "lists of lists", "a list that lies", "a string that lies"],
)
def test_a_bomb_takes_memory_in_proportion_to_its_length(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(bomb, LAYOUT)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 * len(bomb) + 1_000_000


@given(delta=deltas())
def test_the_downlink_comes_back_and_encodes_again_to_the_same_bytes(delta: Vector) -> None:
    exact = decode_weights(encode_weights(delta, LAYOUT, precision="float32"), LAYOUT)
    rows = decode_weights(encode_weights(delta, LAYOUT), LAYOUT)

    np.testing.assert_array_equal(exact, delta)
    if np.abs(delta).max() > 1e-20:
        assert nmse(delta, rows) < 1e-3
