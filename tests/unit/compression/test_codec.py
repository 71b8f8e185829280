"""What a phone-SDK author and a server rely on, case by case."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import msgpack
import msgspec
import numpy as np
import pytest
import zstandard

from keyflock_compression import (
    DEFAULT_SPEC,
    CodecError,
    CodecSpec,
    CorruptedContainer,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DecodeLimits,
    DenseSpec,
    Float32Spec,
    LimitExceeded,
    MalformedContainer,
    NonFinite,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    SpecError,
    TopkSpec,
    WrongLayout,
    WrongSpec,
    container_sizes,
    decode,
    encode,
    encode_weights,
    nmse,
    parse_spec,
    rowset_integers,
)
from keyflock_compression.container import Container
from keyflock_compression.splitmix import splitmix64


@dataclass(frozen=True)
class TwoRows:
    names: tuple[str, ...] = ("rows",)
    shapes: tuple[tuple[int, ...], ...] = ((2, 4),)
    offsets: tuple[int, ...] = (0,)
    size: int = 8
    digest: bytes = b"l" * 16


@dataclass(frozen=True)
class Long:
    names: tuple[str, ...] = ("bias",)
    shapes: tuple[tuple[int, ...], ...] = ((1_000,),)
    offsets: tuple[int, ...] = (0,)
    size: int = 1_000
    digest: bytes = b"o" * 16


LAYOUT = TwoRows()
DELTA = np.array([0, 0, 1, -2, 0, 0, 0, 300], np.float32)
EXACT = Float32Spec(entropy="none")


def forged(spec: CodecSpec, scales: bytes, *streams: bytes, layout: bytes = LAYOUT.digest) -> bytes:
    """Return a well-formed container with any content."""
    return Container(spec.to_wire(), layout, scales, streams).to_bytes()


def test_small_values_become_zero_and_large_ones_keep_their_place() -> None:
    spec = DeadzoneSpec(step_rms=0.01)  # the root mean square is 106, so the step is 1.06

    decoded = decode(encode(DELTA, LAYOUT, spec, seed=0), LAYOUT).dense()

    step = 0.01 * np.sqrt(np.mean(DELTA**2))
    np.testing.assert_allclose(decoded / step, [0, 0, 1, -2, 0, 0, 0, 283], rtol=1e-5)


def test_dense_scales_each_row_by_itself() -> None:
    delta = np.array([0.127, 0.001, 0, 0, 127, 1, 0, 0], np.float32)

    decoded = decode(encode(delta, LAYOUT, DenseSpec(), seed=0), LAYOUT).dense()

    np.testing.assert_allclose(decoded, delta, rtol=1e-5)


def test_a_zero_delta_is_tiny_and_comes_back_as_zero() -> None:
    for spec in (DEFAULT_SPEC, DenseSpec(), EXACT):
        decoded = decode(encode(np.zeros(8, np.float32), LAYOUT, spec, seed=0), LAYOUT)

        assert decoded.l2_norm == 0.0
        np.testing.assert_array_equal(decoded.dense(), np.zeros(8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_delta_that_is_not_finite_is_not_encoded(value: float) -> None:
    delta = DELTA.copy()
    delta[3] = value

    with pytest.raises(NonFinite):
        encode(delta, LAYOUT, DEFAULT_SPEC, seed=0)


def test_a_delta_of_another_size_is_not_encoded() -> None:
    with pytest.raises(WrongLayout):
        encode(np.zeros(9, np.float32), LAYOUT, DEFAULT_SPEC, seed=0)


def test_a_delta_whose_scale_float32_does_not_have_is_not_encoded() -> None:
    with pytest.raises(NonFinite, match="randmask has no scale"):
        encode(np.full(1_000, 3e38, np.float32), Long(), RandmaskSpec(keep_ratio=1e-3), seed=0)
    # A step of 64 root mean squares would be beyond float32; the longest that is not takes its place.
    largest = np.full(8, 3e38, np.float32)
    decoded = decode(encode(largest, LAYOUT, DeadzoneSpec(step_rms=64.0), seed=0), LAYOUT).dense()
    np.testing.assert_array_equal(decoded, np.full(8, np.finfo(np.float32).max))


def test_a_secure_sum_gets_no_part_of_another_size_and_none_that_is_not_finite() -> None:
    spec = RowsetSpec(bits=8, step=1.0, row_start=0, row_count=2)

    with pytest.raises(WrongLayout, match=r"\(9,\); \(8,\) was expected"):
        rowset_integers(np.zeros(9, np.float32), LAYOUT, spec, seed=0)
    for value in (np.nan, np.inf):
        with pytest.raises(NonFinite):
            rowset_integers(np.full(8, value, np.float32), LAYOUT, spec, seed=0)


ZSTD_BOMB = zstandard.ZstdCompressor().compress(bytes(200_000_000))
DEADZONE = DeadzoneSpec(step_rms=1.0, entropy="none")
PACKED = DeadzoneSpec(step_rms=1.0)
ONE = np.ones(1, "<f4").tobytes()
ROWS = {"codec": "rowset", "bits": 8, "step": 0.5, "row_start": 0, "row_count": 1}


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: b"", MalformedContainer),
        (lambda: b"\xc1", MalformedContainer),
        (lambda: msgpack.packb([1, 2]), MalformedContainer),
        (lambda: msgpack.packb({"v": 2}), MalformedContainer),
        (lambda: encode(DELTA, LAYOUT, EXACT, seed=0) + b"x", MalformedContainer),
        (lambda: encode(DELTA, LAYOUT, EXACT, seed=0)[:-1], MalformedContainer),
        (lambda: encode(DELTA, LAYOUT, EXACT, seed=0).replace(b"\x96\x43", b"\x97\x43"), CorruptedContainer),
        (lambda: forged(EXACT, b"", b"\x00" * 32, layout=b"m" * 16), WrongLayout),
        (lambda: forged(EXACT, b"", b"\x00" * 28), MalformedContainer),
        (lambda: forged(EXACT, b"", b"\x00" * 32, b""), MalformedContainer),
        (lambda: forged(EXACT, b"", np.full(8, np.nan, "<f4").tobytes()), NonFinite),
        (lambda: forged(DEADZONE, np.full(1, np.inf, "<f4").tobytes(), bytes(8), b""), NonFinite),
        (lambda: forged(DEADZONE, np.full(1, -1, "<f4").tobytes(), bytes(8), b""), MalformedContainer),
        (lambda: forged(DEADZONE, ONE + ONE, bytes(8), b""), MalformedContainer),
        (lambda: forged(DEADZONE, np.full(1, 3e38, "<f4").tobytes(), b"\x7f" * 8, b""), NonFinite),
        (lambda: forged(DEADZONE, ONE, b"\x80" + bytes(7), b""), MalformedContainer),
        (lambda: forged(DEADZONE, ONE, b"\x80" + bytes(7), b"\x05\0\0\0"), MalformedContainer),
        (lambda: forged(DEADZONE, ONE, b"\x80" + bytes(7), b"\xff\xff\xff\x7f"), MalformedContainer),
        (lambda: forged(DEADZONE, ONE, b"\x80" + bytes(7), b"\0\0\0\x80"), MalformedContainer),
        (lambda: forged(PACKED, ONE, ZSTD_BOMB, b""), MalformedContainer),
        (lambda: forged(PACKED, ONE, b"no frame", b""), MalformedContainer),
    ],
)
def test_what_is_wrong_is_said(make: Callable[[], bytes], error: type[CodecError]) -> None:
    with pytest.raises(error):
        decode(make(), LAYOUT)


def test_a_frame_that_hides_its_size_or_brings_another_behind_it_is_refused() -> None:
    content = bytes(8)
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    whole = zstandard.ZstdCompressor().compress(content)
    empty = zstandard.ZstdCompressor().compress(b"")

    for stream in (hidden, whole + whole, whole + b"\x00"):
        with pytest.raises(MalformedContainer):
            decode(forged(PACKED, ONE, stream, empty), LAYOUT)
    assert decode(forged(PACKED, ONE, whole, empty), LAYOUT).l2_norm == 0.0


@pytest.mark.filterwarnings("error")
def test_a_norm_beyond_float32_is_infinite_and_no_warning() -> None:
    huge = np.full(8, 3e38, np.float32)

    assert decode(encode(huge, LAYOUT, EXACT, seed=0), LAYOUT).l2_norm == float("inf")


def test_another_spec_than_the_assigned_one_is_refused() -> None:
    data = encode(DELTA, LAYOUT, EXACT, seed=0)

    assert decode(data, LAYOUT, spec=EXACT).size == 8
    with pytest.raises(WrongSpec):
        decode(data, LAYOUT, spec=Float32Spec())


def test_another_seed_than_the_assigned_one_is_refused_where_it_is_sent() -> None:
    for spec in (RandmaskSpec(keep_ratio=0.5), RotatedSpec(bits=4)):
        data = encode(DELTA, LAYOUT, spec, seed=2**64 - 1)

        assert decode(data, LAYOUT, seed=2**64 - 1).size == 8
        with pytest.raises(WrongSpec, match="another seed"):
            decode(data, LAYOUT, seed=2**64 - 2)
    assert decode(encode(DELTA, LAYOUT, EXACT, seed=1), LAYOUT, seed=2).size == 8


def test_the_shared_generator_is_splitmix64() -> None:
    # Of Vigna's splitmix64.c, seeds 0 and 1234567.
    assert [f"{number:016x}" for number in splitmix64(0, 3)] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]
    assert list(splitmix64(1234567, 2)) == [6457827717110365317, 3203168211198807973]
    assert list(splitmix64(2**64 - 1, 2)) != list(splitmix64(0, 2))


def test_rows_that_the_vocabulary_has_not_are_refused_before_and_after() -> None:
    spec = RowsetSpec(bits=8, step=1.0, row_start=1, row_count=2)

    for work in (lambda: encode(DELTA, LAYOUT, spec, seed=0), lambda: container_sizes(spec, LAYOUT)):
        with pytest.raises(SpecError, match="row_start and row_count end at row 3; the vocabulary has 2"):
            work()


def test_limits_hold_on_both_sides() -> None:
    data = encode(DELTA, LAYOUT, EXACT, seed=0)

    assert decode(data, LAYOUT, limits=DecodeLimits(max_container_bytes=len(data))).size == 8
    with pytest.raises(LimitExceeded):
        decode(data, LAYOUT, limits=DecodeLimits(max_container_bytes=len(data) - 1))
    with pytest.raises(LimitExceeded):
        decode(data, LAYOUT, limits=DecodeLimits(max_parameters=7))


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        ({"codec": "gzip"}, "codec is 'gzip'"),
        ({"codec": 1}, "codec is 1;"),
        ({"step_rms": 1.0, "zstd_level": b"x" * 1000}, "zstd_level is of type bytes; a whole"),
        ({"step_rms": 10**400}, "step_rms is of type int; a number"),
        ({"codec": "deadzone"}, "give target_nmse or step_rms, budget_bytes, or one with it"),
        ({"target_nmse": 0.1, "step_rms": 1.0}, "give target_nmse or step_rms, budget_bytes, or one with"),
        ({"target_nmse": 0.1, "step_rms": 1.0, "budget_bytes": 999}, "give target_nmse or step_rms, budget"),
        ({"codec": "dense", "step_rms": 1.0}, "belong to deadzone"),
        ({"codec": "dense", "budget_bytes": 1_000}, "belong to deadzone"),
        ({"budget_bytes": 511}, "budget_bytes is 511"),
        ({"codec": "topk"}, "topk needs keep_ratio"),
        ({"step_rms": 1.0, "keep_ratio": 0.1}, "keep_ratio belongs to topk"),
        ({"codec": "topk", "keep_ratio": 1.1}, "at most 1 was"),
        ({"codec": "topk", "keep_ratio": 0.1, "rounding": "stochastic"}, "topk has only nearest"),
        ({"budget_bytes": 600.0}, "budget_bytes is 600.0"),
        ({"budget_bytes": True}, "budget_bytes is True"),
        ({"target_nmse": float("nan")}, "target_nmse is nan"),
        ({"target_nmse": 1.5}, "at most 1"),
        ({"target_nmse": 1.0}, "target_nmse is 1, which sending nothing reaches"),
        ({"target_nmse": 1}, "target_nmse is 1, which sending nothing reaches"),
        ({"target_nmse": True}, "target_nmse is True"),
        ({"step_rms": 0.0}, "above 0"),
        ({"step_rms": 1.0, "zstd_level": 3.0}, "zstd_level is 3.0"),
        ({"step_rms": 1.0, "rounding": "up"}, "rounding is 'up'"),
        ({"step_rms": 1.0, "colour": 4}, "unknown codec setting 'colour'"),
        ({"step_rms": 1.0, "bits": 4}, "bits belongs to rowset, rotated, dense; the codec is deadzone"),
        ({"codec": "dense", "bits": 3}, "bits is 3; for dense one of 8, 4, 2, 1"),
        ({"codec": "dense", "bits": True}, "bits is True"),
        ({"codec": "dense", "bits": 4.0}, "bits is 4.0"),
        ({"codec": "dense", "keep_ratio": 0.5}, "keep_ratio belongs to topk, randmask"),
        ({"codec": "randmask"}, "randmask needs keep_ratio"),
        ({"codec": "randmask", "keep_ratio": 0.0}, "keep_ratio is 0.0; a number above 0"),
        ({"codec": "randmask", "keep_ratio": 0.5, "selection": "exact"}, "selection belongs to topk"),
        ({"codec": "topk", "keep_ratio": 0.5, "selection": "best"}, "selection is 'best'; one of exact"),
        ({"codec": "rotated"}, "rotated needs bits"),
        ({"codec": "rotated", "bits": 8}, "bits is 8; for rotated one of 4, 2, 1"),
        ({"codec": "rotated", "bits": 2, "rounding": "stochastic"}, "rotated has only nearest"),
        (ROWS | {"step": None}, "rowset needs step"),
        (ROWS | {"bits": None}, "rowset needs bits"),
        (ROWS | {"row_count": None}, "rowset needs row_count"),
        (ROWS | {"bits": 1}, "bits is 1; for rowset one of 16, 8, 4, 2"),
        (ROWS | {"step": 1e-31}, "step is 1e-31; a number of at least 1e-30 and at most 1000"),
        (ROWS | {"row_start": -1}, "row_start is -1; a whole number of at least 0"),
        (ROWS | {"row_start": 1.0}, "row_start is 1.0"),
        ({"codec": "dense", "step": 0.1}, "step belongs to rowset"),
        ({"codec": "float32", "feedback_s": 1.0}, "feedback_s is of no use with float32"),
        (
            {"codec": "randmask", "keep_ratio": 0.1, "feedback_s": 1.0},
            "feedback_s is of no use with randmask",
        ),
        (
            {"codec": "dense", "rounding": "stochastic", "feedback_s": 1.0},
            "feedback_s needs nearest rounding",
        ),
        ({"target_nmse": 0.1, "rounding": "stochastic", "feedback_s": 1.0}, "feedback_s needs nearest"),
    ],
)
def test_a_spec_that_cannot_be_used_names_its_field(wire: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_spec(wire)


def test_an_unknown_setting_is_not_repeated_at_its_length() -> None:
    data = Container({bytes(4_000_000): 1}, LAYOUT.digest, b"", ()).to_bytes()  # type: ignore[dict-item]  # hostile

    tracemalloc.start()
    try:
        with pytest.raises(MalformedContainer, match="unknown codec setting of type bytes"):
            decode(data, LAYOUT)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # As ``decode`` says; written out byte by byte it would be more.
    assert peak_bytes <= 4 * len(data) + 200_000


def test_a_spec_comes_back_from_the_wire() -> None:
    for spec in (DEFAULT_SPEC, EXACT, DeadzoneSpec(step_rms=2.5, rounding="stochastic", zstd_level=9)):
        assert parse_spec(spec.to_wire()) == spec


def test_topk_takes_the_first_of_equals_and_never_a_zero() -> None:
    delta = np.array([0, 2, -1, 1, 0, 0, -1, 0], np.float32)

    for ratio, expected in ((0.375, [0, 2, -1, 1, 0, 0, 0, 0]), (1.0, delta)):
        data = encode(delta, LAYOUT, TopkSpec(keep_ratio=ratio), seed=0)
        np.testing.assert_array_equal(decode(data, LAYOUT).dense(), expected)


@dataclass(frozen=True)
class WideLayout:
    names: tuple[str, ...] = ("embedding",)
    shapes: tuple[tuple[int, ...], ...] = ((1_000, 100),)
    offsets: tuple[int, ...] = (0,)
    size: int = 100_000
    digest: bytes = b"w" * 16


def test_a_budget_is_used_and_a_larger_one_makes_a_smaller_error() -> None:
    rng = np.random.default_rng(3)
    delta = (rng.standard_normal(100_000) * np.exp(2 * rng.standard_normal(100_000))).astype(np.float32)
    containers = [
        encode(delta, WideLayout(), DeadzoneRowsSpec(budget_bytes=budget), seed=0)
        for budget in (2_000, 8_000)
    ]

    assert 1_800 <= len(containers[0]) <= 2_000
    assert 7_200 <= len(containers[1]) <= 8_000
    errors = [nmse(delta, decode(container, WideLayout()).dense()) for container in containers]
    assert errors[1] < errors[0] < 1


def test_a_budget_beside_a_target_counts_only_where_the_target_takes_more() -> None:
    delta = (np.random.default_rng(3).standard_normal(100_000) ** 5).astype(np.float32)
    wanted = DeadzoneRowsSpec(target_nmse=0.1)
    plain = encode(delta, WideLayout(), wanted, seed=0)

    for budget in (len(plain) // 2, 2 * len(plain)):
        spec = msgspec.structs.replace(wanted, budget_bytes=budget)
        capped = encode(delta, WideLayout(), spec, seed=0)

        assert len(capped) <= budget
        decoded = decode(capped, WideLayout(), spec=spec).dense()
        is_plain = bool((decoded == decode(plain, WideLayout()).dense()).all())
        assert is_plain is (budget > len(plain))


def test_a_budget_that_not_even_zeros_keep_is_refused() -> None:
    spec = DeadzoneSpec(entropy="none", budget_bytes=512)

    with pytest.raises(LimitExceeded, match="coarsest step takes 100"):
        encode(np.zeros(100_000, np.float32), WideLayout(), spec, seed=0)


def test_nmse_of_nothing_is_nothing() -> None:
    zero = np.zeros(3, np.float32)

    assert nmse(zero, zero) == 0.0
    assert nmse(zero, zero + 1) == float("inf")
    assert nmse(zero + 2, zero) == 1.0


def test_the_downlink_of_a_full_size_model_is_about_a_byte_a_parameter() -> None:
    @dataclass(frozen=True)
    class Full:
        names: tuple[str, ...] = ("embedding",)
        shapes: tuple[tuple[int, ...], ...] = ((14_222, 100),)
        offsets: tuple[int, ...] = (0,)
        size: int = 1_422_200
        digest: bytes = b"f" * 16

    weights = np.random.default_rng(0).standard_normal(Full.size).astype(np.float32)

    assert len(encode_weights(weights, Full())) <= 1_422_200 * 1.06
