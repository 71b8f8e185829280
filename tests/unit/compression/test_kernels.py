"""Each codec at its exact limits: the largest outlier, the longest step, zeros, and layouts of odd shapes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from keyflock_compression import (
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    Float32Spec,
    MalformedContainer,
    NonFinite,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    SpecError,
    TopkSpec,
    WrongLayout,
    container_sizes,
    decode,
    encode,
    nmse,
    rowset_integers,
)
from keyflock_compression.container import Container
from keyflock_compression.deadzone import choose_step
from keyflock_compression.rounding import quantize
from keyflock_compression.rowset import rowset_update
from keyflock_compression.update import DenseUpdate, SparseUpdate

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class ShapesLayout:
    """Tensors of these shapes, one after the other."""

    shapes: tuple[tuple[int, ...], ...]
    digest: bytes = b"l" * 16

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(len(self.shapes)))

    @property
    def offsets(self) -> tuple[int, ...]:
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        return tuple(sum(sizes[:end]) for end in range(len(sizes)))

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)


def row(size: int) -> ShapesLayout:
    return ShapesLayout(((size,),))


def forged(spec: CodecSpec, scale: float, *streams: bytes) -> bytes:
    scales = np.array([scale], "<f4").tobytes()
    return Container(spec.to_wire(), b"l" * 16, scales, streams).to_bytes()


BARE = DeadzoneSpec(step_rms=1.0, entropy="none")


@pytest.mark.parametrize("outlier", [2**23, -(2**23), 128, -128])
def test_the_largest_and_the_smallest_outliers_are_taken(outlier: int) -> None:
    data = forged(BARE, 0.5, b"\x80\x7f\x81", np.array([outlier], "<i4").tobytes())

    assert decode(data, row(3)).dense().tolist() == [outlier / 2, 63.5, -63.5]


@pytest.mark.parametrize("outlier", [2**23 + 1, -(2**23) - 1, 127, -127, 0])
def test_an_outlier_beyond_them_is_malformed(outlier: int) -> None:
    data = forged(BARE, 0.5, b"\x80\x7f\x81", np.array([outlier], "<i4").tobytes())

    with pytest.raises(MalformedContainer, match="an outlier is one that the int8 stream could have held"):
        decode(data, row(3))


def test_a_value_of_128_steps_is_an_outlier_and_one_of_127_is_not() -> None:
    delta = np.ones(16_384, np.float32)

    for value, outliers in ((127.0, 0), (128.0, 4)):
        delta[0] = value
        spec = DeadzoneSpec(step_rms=1 / float(np.sqrt(np.mean(delta**2))), entropy="none")
        encoded = encode(delta, row(16_384), spec, seed=0)
        assert len(encoded) - len(encode(np.ones(16_384, np.float32), row(16_384), spec, seed=0)) == outliers
        assert decode(encoded, row(16_384)).dense()[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("target", [0.01, 0.1, 0.4, 0.7])
def test_the_step_is_the_longest_of_a_fine_scale_that_keeps_the_target(rounding: str, target: float) -> None:
    rng = np.random.default_rng(7)
    delta = (rng.standard_normal(3_000) * np.exp(1.5 * rng.standard_normal(3_000))).astype(np.float32)
    spec = DeadzoneSpec(target_nmse=target, rounding=rounding)  # type: ignore[arg-type]  # one of its two
    rms = float(np.sqrt(np.mean(delta.astype(np.float64) ** 2)))

    step = float(choose_step(delta, spec, 5))

    def error(ratio: float) -> float:
        long = np.float32(ratio * rms)
        return nmse(delta, quantize(delta / long, spec.rounding, 5) * long)

    # Seven halvings of the logarithm of 0.25 to 64 leave a factor of 256 ** (1 / 128).
    fine = 256 ** (1 / 128)
    steps = [0.25 * fine**power for power in range(129)]
    halved = [0, 128]
    for _ in range(7):
        middle = sum(halved) // 2
        halved[error(steps[middle]) > target] = middle
    assert step / rms == pytest.approx(steps[halved[0]], rel=1e-4)
    assert error(step / rms) <= target * 1.0001


@pytest.mark.parametrize(
    "spec",
    [
        DeadzoneSpec(step_rms=1.0),
        DeadzoneSpec(target_nmse=0.1),
        DeadzoneRowsSpec(target_nmse=0.1),
        TopkSpec(keep_ratio=0.5),
        RandmaskSpec(keep_ratio=0.5),
        RotatedSpec(bits=1),
        RotatedSpec(bits=4),
        RowsetSpec(bits=4, step=1.0, row_start=0, row_count=1),
        DenseSpec(),
        Float32Spec(),
    ],
)
@pytest.mark.parametrize("layout", [row(1), row(7), ShapesLayout(((3, 2), (5,)))], ids=["1", "7", "11"])
def test_zeros_are_zeros_of_scale_zero_and_no_warning(spec: CodecSpec, layout: ShapesLayout) -> None:
    data = encode(np.zeros(layout.size, np.float32), layout, spec, seed=3)

    assert not decode(data, layout).dense().any()


def test_a_block_of_zeros_beside_another_is_rotated_to_zeros() -> None:
    delta = np.concatenate([np.zeros(8_192), np.ones(9)]).astype(np.float32)

    decoded = decode(encode(delta, row(8_201), RotatedSpec(bits=4), seed=1), row(8_201)).dense()

    assert not decoded[:8_192].any()
    assert nmse(delta[8_192:], decoded[8_192:]) < 0.05


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(RotatedSpec(bits=1), 0.5708), (RotatedSpec(bits=2), 0.1331), (RotatedSpec(bits=4), 0.00959)],
)
def test_a_rotated_delta_has_the_error_of_the_normal_distributions_levels(
    spec: RotatedSpec, expected: float
) -> None:
    # Max 1960, table 1: distortions D of 0.3634, 0.1175, 0.009497; a decoder without bias has D / (1 - D).
    rng = np.random.default_rng(2)
    delta = (rng.standard_normal(16_384) ** 3).astype(np.float32)

    decoded = decode(encode(delta, row(16_384), spec, seed=9), row(16_384)).dense()

    # Over seeds the error's standard deviation is below 2 % of it; the seed is fixed.
    assert nmse(delta, decoded) == pytest.approx(expected, rel=0.06)
    for block in (slice(0, 8_192), slice(8_192, None)):
        energy = float(np.dot(delta[block].astype(np.float64), delta[block]))
        assert float(np.dot(delta[block].astype(np.float64), decoded[block])) == pytest.approx(
            energy, rel=1e-4
        )


def test_a_scale_that_no_encoder_writes_is_taken_while_its_values_are_finite() -> None:
    spec = RotatedSpec(bits=1, entropy="none")
    largest = float(np.finfo(np.float32).max)

    finite = decode(forged(spec, largest / 2**20, bytes(8), b"\x00"), row(1)).dense()

    assert abs(finite[0]) == pytest.approx(559 * (largest / 2**20), rel=1e-6)
    with pytest.raises(NonFinite):
        decode(forged(spec, largest / 2**8, bytes(8), b"\x00"), row(1))


def test_a_secure_sums_numbers_go_back_to_their_places_times_the_step() -> None:
    layout = ShapesLayout(((4, 2), (3,), (4,)))
    spec = RowsetSpec(bits=8, step=0.5, row_start=1, row_count=2)

    update = rowset_update(np.arange(1, 10, dtype=np.int64), layout, spec)

    # Rows 1 and 2 of what has a row for each of the four words, and all of what has not.
    assert update.dense().tolist() == [0, 0, 0.5, 1, 1.5, 2, 0, 0, 2.5, 3, 3.5, 0, 4, 4.5, 0]
    again = rowset_integers(update.dense(), layout, spec, seed=0)
    assert again.tolist() == list(range(1, 10))


@pytest.mark.parametrize("size", [14, 16])
def test_a_secure_sum_takes_no_vector_of_another_size(size: int) -> None:
    layout = ShapesLayout(((4, 2), (3,), (4,)))
    spec = RowsetSpec(bits=8, step=0.5, row_start=1, row_count=2)

    with pytest.raises(WrongLayout, match=rf"\({size},\); \(15,\) was expected"):
        rowset_integers(np.zeros(size, np.float32), layout, spec, seed=0)
    with pytest.raises(WrongLayout, match=rf"\({size - 6},\); \(9,\) was expected"):
        rowset_update(np.zeros(size - 6, np.int64), layout, spec)


@pytest.mark.parametrize("shapes", [((), (4, 2)), ((0, 2), (3,)), ()])
def test_a_layout_without_words_has_no_rows_to_choose(shapes: tuple[tuple[int, ...], ...]) -> None:
    layout = ShapesLayout(shapes)

    with pytest.raises(SpecError, match="end at row 1; the vocabulary has 0"):
        container_sizes(RowsetSpec(bits=8, step=0.5, row_start=0, row_count=1), layout)
    nothing = RowsetSpec(bits=8, step=0.5, row_start=0, row_count=0)
    assert container_sizes(nothing, layout).streams == (layout.size,)


@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (4, 7), (8, 127), (16, 32_767)])
def test_a_secure_sums_numbers_end_at_the_largest_of_their_bits(
    bits: Literal[2, 4, 8, 16], largest: int
) -> None:
    spec = RowsetSpec(bits=bits, step=1.0, row_start=0, row_count=0)
    delta = np.array([largest, largest + 1, -largest - 1, 3e38, 0.5, 1.5], np.float32)
    layout = ShapesLayout(((1, 0), (6,)))

    integers = rowset_integers(delta, layout, spec, seed=0)
    decoded = decode(encode(delta, layout, spec, seed=0), layout).dense()

    assert integers.tolist()[:4] == [largest, largest, -largest, largest]
    assert decoded.tolist() == integers.tolist()


@pytest.mark.parametrize(("run", "kind"), [(1, DenseUpdate), (7, DenseUpdate), (8, SparseUpdate)])
def test_one_value_in_eight_is_a_sparse_update(run: int, kind: type) -> None:
    delta = np.ones(80, np.float32)

    update = decode(encode(delta, row(80), RandmaskSpec(keep_ratio=1 / run), seed=2), row(80))

    assert type(update) is kind
    assert np.count_nonzero(update.dense()) == -(-80 // run)


def test_a_drawn_value_is_sent_as_many_times_as_large_as_its_run_is_long() -> None:
    # 20 values in runs of 8, 8 and 4.
    decoded = decode(
        encode(np.ones(20, np.float32), row(20), RandmaskSpec(keep_ratio=1 / 8), seed=4), row(20)
    ).dense()

    runs = [decoded[:8], decoded[8:16], decoded[16:]]
    assert [np.count_nonzero(run) for run in runs] == [1, 1, 1]
    # The last run's value is 4 of the 8 that a whole level of 127 stands for: 63.5 of them, to the nearest.
    np.testing.assert_allclose([run.sum() for run in runs], [8, 8, 4], rtol=0.01)
