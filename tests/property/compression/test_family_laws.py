"""What each member of the codec family promises of the values that come back, and of its bytes' number."""

import dataclasses
import tracemalloc
from dataclasses import dataclass
from math import log, prod, sqrt

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.property.compression.test_codec_laws import LAYOUT, SPECS, Vector, deltas, specs

from keyflock_compression import (
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    Layout,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    WrongLayout,
    container_length,
    container_sizes,
    decode,
    encode,
    nmse,
    parse_spec,
    rowset_integers,
    rowset_size,
    rowset_update,
)
from keyflock_compression.entropy import compress, max_frame_bytes
from keyflock_compression.hadamard import hadamard_transform
from keyflock_compression.topk import TopkCodec

#: The false-alarm rate of a test that judges random draws.
FALSE_ALARM = 1e-9
TINY = float(np.finfo(np.float32).tiny)
#: Each value's row, over all tensors of the layout.
ROWS = np.concatenate((np.repeat(np.arange(38), [8] * 30 + [12] * 8), np.full(12, 38)))


@dataclass(frozen=True)
class LongLayout:
    """One matrix of 300 rows of 700: more than 25 of the rotation's blocks."""

    names: tuple[str, ...] = ("embedding",)
    shapes: tuple[tuple[int, ...], ...] = ((300, 700),)
    offsets: tuple[int, ...] = (0,)
    size: int = 210_000
    digest: bytes = b"a longer layout."


LONG = LongLayout()
BLOCK = dataclasses.replace(LONG, shapes=((32, 64),), size=2_048)


def back(delta: Vector, spec: CodecSpec, seed: int = 0, layout: Layout = LAYOUT) -> NDArray[np.float64]:
    return decode(encode(delta, layout, spec, seed=seed), layout).dense().astype(np.float64)


def row_maxima(delta: Vector) -> NDArray[np.float64]:
    """Return, for each value, the largest magnitude of its row."""
    max_value = np.zeros(39)
    np.maximum.at(max_value, ROWS, np.abs(delta))
    return np.take(max_value, ROWS)


@given(delta=deltas(), spec=specs, seed=st.integers(0, 2**64 - 1))
def test_what_is_foretold_of_sizes_is_so(delta: Vector, spec: CodecSpec, seed: int) -> None:
    spec = parse_spec(spec.to_wire() | {"entropy": "none"})
    fields = msgpack.unpackb(encode(delta, LAYOUT, spec, seed=seed))

    foretold_sizes = container_sizes(spec, LAYOUT)

    assert len(fields["scales"]) == 4 * foretold_sizes.scales
    assert len(fields["streams"]) == len(foretold_sizes.streams)
    for stream, foretold in zip(fields["streams"], foretold_sizes.streams, strict=True):
        assert foretold is None or len(stream) == foretold
    if spec.codec not in {"deadzone", "deadzone_rows", "topk"}:
        assert None not in foretold_sizes.streams


@pytest.mark.parametrize("entropy", ["none", "zstd"])
@given(delta=deltas(), spec=specs, seed=st.integers(0, 2**64 - 1))
def test_no_container_is_longer_or_shorter_than_foretold(
    entropy: str, delta: Vector, spec: CodecSpec, seed: int
) -> None:
    spec = parse_spec(spec.to_wire() | {"entropy": entropy})

    length = container_length(spec, LAYOUT)

    sent = len(encode(delta, LAYOUT, spec, seed=seed))
    assert length.min_bytes <= sent
    assert length.max_bytes is None or sent <= length.max_bytes
    if entropy == "none" and length.max_bytes is not None:
        assert length.min_bytes == length.max_bytes


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 131_071, 131_072, 200_000])
@pytest.mark.parametrize("level", [1, 3, 19])
def test_a_frame_of_what_cannot_be_packed_is_within_its_bound(size: int, level: int) -> None:
    noise = np.random.default_rng(size).bytes(size)

    assert len(compress(noise, level)) <= max_frame_bytes(size)


#: The specs whose rounding is unbiased.
UNBIASED = [
    DeadzoneSpec(step_rms=3.0, rounding="stochastic"),
    DeadzoneRowsSpec(step_rms=3.0, rounding="stochastic"),
    DenseSpec(rounding="stochastic"),
    DenseSpec(bits=4, rounding="stochastic"),
    DenseSpec(bits=2, rounding="stochastic"),
    DenseSpec(bits=1, rounding="stochastic"),
    RandmaskSpec(keep_ratio=0.2, rounding="stochastic"),
    RowsetSpec(bits=4, step=1.0, row_start=0, row_count=30, rounding="stochastic"),
]


def deviations(spec: CodecSpec, delta: Vector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far one draw may be from each value, and its maximum variance."""
    magnitudes = np.abs(delta).astype(np.float64)
    match spec:
        case DenseSpec(bits=1):
            return 2 * row_maxima(delta), row_maxima(delta) ** 2
        case DenseSpec():
            steps = row_maxima(delta) / {None: 127, 4: 7, 2: 1}[spec.bits]
        case RowsetSpec():
            steps = np.ones(LAYOUT.size)
        case RandmaskSpec():
            runs = np.full(LAYOUT.size, 5.0)
            runs[345:] = 3.0  # 348 values are 69 runs of five and one of three
            steps = np.full(LAYOUT.size, 5.0 * magnitudes.max() / 127)
            return runs * magnitudes + steps, runs * magnitudes**2 + steps**2 / (4 * runs)
        case _:
            steps = np.full(LAYOUT.size, 3.0 * sqrt(float(np.mean(magnitudes**2))))
    return steps, steps**2 / 4


@pytest.mark.parametrize(
    "spec", UNBIASED, ids=lambda spec: f"{spec.codec}-{getattr(spec, 'bits', None) or ''}"
)
def test_over_seeds_the_mean_is_the_value(spec: CodecSpec) -> None:
    delta = np.random.default_rng(5).standard_normal(LAYOUT.size).astype(np.float32)
    draws = 3_000

    mean = np.mean([back(delta, spec, seed) for seed in range(draws)], axis=0)

    # Bernstein's bound, shared by 348 values: draws of one value are independent and bounded.
    max_value, variance = deviations(spec, delta)
    chances = log(2 * LAYOUT.size / FALSE_ALARM)
    third = max_value * chances / (3 * draws)
    allowed = third + np.sqrt(third**2 + 2 * variance * chances / draws)
    assert (np.abs(mean - delta) <= allowed + 1e-5 * np.abs(delta).max()).all()


@given(delta=deltas(), seed=st.integers(0, 99))
@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (4, 7), (2, 1)])
@pytest.mark.parametrize(("rounding", "steps"), [("nearest", 0.5), ("stochastic", 1.0)])
def test_a_dense_error_is_within_its_row_s_step(
    rounding: str, steps: float, bits: int, levels: int, delta: Vector, seed: int
) -> None:
    spec = parse_spec({"codec": "dense", "bits": bits, "rounding": rounding})

    error = np.abs(back(delta, spec, seed) - delta)

    assert (error <= row_maxima(delta) * (steps / levels + 1e-6) + TINY).all()


@given(delta=deltas(), seed=st.integers(0, 99))
def test_one_bit_is_the_sign_with_the_row_s_mean_or_its_largest(delta: Vector, seed: int) -> None:
    nearest = back(delta, DenseSpec(bits=1))
    drawn = back(delta, DenseSpec(bits=1, rounding="stochastic"), seed)

    sums = np.bincount(ROWS, np.abs(delta).astype(np.float64))
    means = (sums / np.bincount(ROWS))[ROWS]
    np.testing.assert_allclose(nearest, np.where(delta < 0, -means, means), rtol=1e-5, atol=TINY)
    np.testing.assert_allclose(np.abs(drawn), row_maxima(delta), rtol=1e-6)
    # The largest of a row are certain of their sign.
    certain = (np.abs(delta) == row_maxima(delta)) & (delta != 0)
    assert (np.sign(drawn)[certain] == np.sign(delta)[certain]).all()


def splitmix(seed: int, number: int) -> int:
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@given(
    delta=deltas(),
    seed=st.integers(0, 2**64 - 1),
    keep=st.sampled_from([(1.0, 1), (0.4, 2), (0.1, 10), (0.01, 100), (0.001, 348)]),
)
@pytest.mark.parametrize(("rounding", "steps"), [("nearest", 0.5), ("stochastic", 1.0)])
def test_randmask_sends_one_value_of_each_run_as_large_as_its_run_is_long(
    rounding: str, steps: float, delta: Vector, seed: int, keep: tuple[float, int]
) -> None:
    ratio, run = keep
    spec = parse_spec({"codec": "randmask", "keep_ratio": ratio, "rounding": rounding})

    decoded = back(delta, spec, seed)

    expected = np.zeros(LAYOUT.size)
    for number, first in enumerate(range(0, LAYOUT.size, run)):
        length = min(run, LAYOUT.size - first)
        place = first + splitmix(seed, number) % length
        expected[place] = float(delta[place]) * length
    max_value = np.abs(expected).max() * run  # of a last run shorter than the others
    assert (decoded[expected == 0] == 0).all()
    assert (np.abs(decoded - expected) <= max_value * (steps / 127 + 1e-6) + TINY * run).all()


rowsets = st.builds(
    RowsetSpec,
    rounding=st.sampled_from(["nearest", "stochastic"]),
    bits=st.sampled_from([16, 8, 4, 2]),
    step=st.sampled_from([2.0**-20, 2.0**-3, 1.0, 64.0]),
    row_start=st.integers(0, 15),
    row_count=st.integers(0, 15),
)


@given(delta=deltas(), spec=rowsets, seed=st.integers(0, 99))
def test_rowset_sends_its_rows_and_what_has_no_row_a_word_cut_to_its_range(
    delta: Vector, spec: RowsetSpec, seed: int
) -> None:
    decoded = back(delta, spec, seed)

    is_sent = np.ones(LAYOUT.size, bool)
    is_sent[:240] = False
    is_sent[8 * spec.row_start : 8 * (spec.row_start + spec.row_count)] = True
    max_value = (2 ** (spec.bits - 1) - 1) * spec.step
    error = np.abs(decoded - np.clip(delta.astype(np.float64), -max_value, max_value))
    assert (decoded[~is_sent] == 0).all()
    assert (error <= spec.step * (0.5 if spec.rounding == "nearest" else 1.0) + 1e-6 * max_value)[
        is_sent
    ].all()
    assert int(is_sent.sum()) == rowset_size(LAYOUT, spec)


@given(spec=rowsets, data=st.data())
def test_a_sum_of_phones_integers_is_the_sum_of_their_updates(spec: RowsetSpec, data: st.DataObject) -> None:
    phones = [data.draw(deltas()) for _ in range(5)]

    integers = [
        rowset_integers(delta, LAYOUT, spec, seed=seed).astype(np.int64) for seed, delta in enumerate(phones)
    ]
    summed = rowset_update(np.sum(integers, axis=0), LAYOUT, spec).dense()

    # Steps are powers of two here, so that float32 adds them without an error.
    updates = [back(delta, spec, seed) for seed, delta in enumerate(phones)]
    np.testing.assert_array_equal(summed, np.sum(updates, axis=0))
    assert np.abs(integers).max(initial=0) < 2 ** (spec.bits - 1)


def test_a_sum_of_another_round_s_rows_is_refused() -> None:
    spec = RowsetSpec(bits=8, step=1.0, row_start=0, row_count=2)

    with pytest.raises(WrongLayout, match=r"\(125,\); \(124,\) was expected"):
        rowset_update(np.zeros(125, np.int64), LAYOUT, spec)


@given(delta=deltas(), bits=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**64 - 1))
def test_a_rotated_delta_keeps_its_length_along_itself(delta: Vector, bits: int, seed: int) -> None:
    decoded = back(delta, parse_spec({"codec": "rotated", "bits": bits}), seed)

    exact = delta.astype(np.float64)
    energy = float(exact @ exact)
    if np.abs(delta).max() > 1e-25:  # below, float32 has no digits for a scale
        assert float(decoded @ exact) == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.571), (2, 0.133), (4, 0.0096)])
def test_a_rotated_delta_s_error_is_the_normal_distribution_s(bits: int, expected: float) -> None:
    delta = np.random.default_rng(11).standard_normal(LONG.size).astype(np.float32)

    error = nmse(
        delta, back(delta, parse_spec({"codec": "rotated", "bits": bits}), 3, LONG).astype(np.float32)
    )

    # The standard deviation of a value's squared error is at most 3.3 times its mean (4 bits), of the mean
    # over all values 0.7 %; 6.1 times that is passed by chance in 1e-9 of runs.
    assert error == pytest.approx(expected, rel=6.1 * 3.3 / sqrt(LONG.size))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_rotated_delta_s_error_vanishes_with_the_cohort(bits: int) -> None:
    rng, phones, block = np.random.default_rng(12), 32, 2_048
    delta = (rng.standard_normal(block) * np.exp(rng.standard_normal(block))).astype(np.float32)

    decoded = [
        back(delta, parse_spec({"codec": "rotated", "bits": bits}), seed, BLOCK) for seed in range(phones)
    ]

    each = np.mean([nmse(delta, one.astype(np.float32)) for one in decoded])
    # Were errors independent and unbiased, the mean's would be one in 32 of each, give or take
    # sqrt(2 / block) of that; 6.1 times as much is passed by chance in 1e-9 of runs.
    mean = nmse(delta, np.mean(decoded, axis=0).astype(np.float32))
    assert mean <= each / phones * (1 + 6.1 * sqrt(2 / block))


def test_a_block_that_is_far_quieter_than_another_comes_back_as_well() -> None:
    delta = np.random.default_rng(13).standard_normal(2 * 8_192).astype(np.float32)
    delta[8_192:] *= np.float32(1e-30)
    long = dataclasses.replace(LONG, shapes=((2, 8_192),), size=delta.size)

    for quiet in (1.0, 1e-7):  # of values that have all their digits, and some of them
        delta[8_192:] *= np.float32(quiet)
        decoded = back(delta, RotatedSpec(bits=4), 1, long)
        exact = delta.astype(np.float64)
        errors = [
            float(np.sum(np.square(decoded[part] - exact[part])) / np.sum(np.square(exact[part])))
            for part in (slice(0, 8_192), slice(8_192, None))
        ]
        # As above, of fewer values.
        assert errors == pytest.approx([0.0096, 0.0096], rel=6.1 * 3.3 / sqrt(8_192))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-40])
def test_a_dense_row_whose_scale_is_subnormal_is_within_its_step_too(scale: float, bits: int) -> None:
    delta = (np.random.default_rng(14).standard_normal(LAYOUT.size) * scale).astype(np.float32)
    levels = {8: 127, 4: 7, 2: 1}[bits]

    error = np.abs(back(delta, parse_spec({"codec": "dense", "bits": bits})) - delta)

    # A scale is a whole number of 2**-149, and a number of at most ``levels`` multiplies what it lacks.
    assert (error <= row_maxima(delta) * (0.5 / levels + 1e-6) + (levels + 1) * 2.0**-150).all()


def test_subnormal_values_keep_their_size_where_a_scale_has_digits() -> None:
    delta = np.random.default_rng(15).uniform(-1e-39, 1e-39, LAYOUT.size).astype(np.float32)

    masked = back(delta, RandmaskSpec(keep_ratio=1.0))
    turned = back(10 * delta, RotatedSpec(bits=4))

    # Half a step, and what 2**-149 is of a scale of 1e-39 / 127, 127 times.
    assert np.abs(masked - delta).max() <= 1e-39 * (0.5 / 127 + 1e-3)
    exact = 10 * delta.astype(np.float64)
    # A scale of some 150 times 2**-149 is right within a three-hundredth.
    assert float(turned @ exact) == pytest.approx(float(exact @ exact), rel=1 / 150)


@pytest.mark.parametrize("codec", ["deadzone", "deadzone_rows"])
@pytest.mark.parametrize(("rounding", "max_value"), [("stochastic", 1.0), ("nearest", 1.75e-38)])
def test_the_finest_step_gives_no_whole_number_that_is_refused(
    codec: str, rounding: str, max_value: float
) -> None:
    delta = (np.random.default_rng(16).uniform(-1, 1, LAYOUT.size) * max_value).astype(np.float32)
    delta[:8] = max_value
    spec = parse_spec({"codec": codec, "step_rms": 1e-9, "rounding": rounding})

    for seed in range(8):
        error = np.abs(back(delta, spec, seed) - delta).max()
        # A step of 2**-23 of the largest; or of 2**-149, of which 2**23 are less than the largest.
        assert error <= max(max_value * 2.0**-23, max_value - 2.0**-126) * (1 + 1e-6)


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.codec}-{getattr(spec, 'bits', None) or ''}-{spec.entropy}"
)
@pytest.mark.parametrize("shapes", [(), ((0,),), ((0, 3),), ((3, 0), (2, 3)), ((),), ((1,),), ((5,), (1, 1))])
def test_layouts_of_nothing_and_of_single_values_come_back(
    spec: CodecSpec, shapes: tuple[tuple[int, ...], ...]
) -> None:
    sizes = [prod(shape) for shape in shapes]
    offsets = tuple(sum(sizes[:number]) for number in range(len(shapes)))
    names = tuple(map(str, range(len(shapes))))
    layout = dataclasses.replace(LONG, names=names, shapes=shapes, offsets=offsets, size=sum(sizes))
    if isinstance(spec, RowsetSpec):
        spec = msgspec.structs.replace(spec, row_start=0, row_count=0)

    decoded = decode(encode(np.ones(layout.size, np.float32), layout, spec, seed=0), layout, spec=spec)

    assert decoded.dense().shape == (layout.size,)


def test_the_transform_leaves_its_argument_alone() -> None:
    for size in (1, 8, 8_192, 8_200):
        vector = np.arange(size, dtype=np.float32)

        hadamard_transform(vector)

        np.testing.assert_array_equal(vector, np.arange(size))


@given(
    seed=st.integers(0, 2**32 - 1),
    ratio=st.sampled_from([0.01, 0.05, 0.3]),
    live=st.sampled_from([0.001, 0.02, 1.0]),
    ties=st.booleans(),
)
@settings(max_examples=60)
def test_a_sampled_threshold_lets_about_as_many_through(
    seed: int, ratio: float, live: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    delta = rng.standard_normal(LONG.size) * np.exp(2 * rng.standard_normal(LONG.size))
    delta = np.sign(delta) if ties else delta
    delta[rng.random(LONG.size) >= live] = 0

    spec = TopkSpec(keep_ratio=ratio, selection="sampled", entropy="none")
    sent = len(TopkCodec().encode(delta.astype(np.float32), LONG, spec, seed).streams[3])
    decoded = back(delta.astype(np.float32), spec, seed, LONG)

    expected_count = round(ratio * LONG.size)
    # 60 examples, each beyond its bound with a chance below 1e-16.
    assert 0.75 * min(expected_count, int(np.count_nonzero(delta))) <= sent <= 1.25 * expected_count
    smallest = np.abs(delta[decoded != 0]).min()
    assert np.abs(delta[decoded == 0]).max() <= smallest


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.codec}-{getattr(spec, 'bits', None) or ''}-{spec.entropy}"
)
@pytest.mark.parametrize("share", [0.02, 1.0])
def test_decoding_keeps_within_its_memory(spec: CodecSpec, share: float) -> None:
    rng = np.random.default_rng(0)
    delta = np.where(rng.random(LONG.size) < share, rng.standard_normal(LONG.size), 0).astype(np.float32)
    data = encode(delta, LONG, spec, seed=0)
    decode(data, LONG)  # what is kept from one call to the next is not counted

    tracemalloc.start()
    try:
        decode(data, LONG)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes <= 24 * LONG.size + 2 * len(data) + 200_000
