"""The codec that sends every value in a few bits, with one scale per row.

A row is a vocabulary row of the embedding, a row of a matrix, or a whole bias vector. There is one scale per
row rather than per tensor, because rows of rare words are thousands of times smaller than those of common
ones, and would all become zero under the tensor's scale.

One bit is a sign. With nearest rounding its magnitude is the row's mean, which has the least error of any;
with stochastic rounding it is the row's largest, and the sign is drawn so that the mean is right.

Source: one bit, Bernstein et al. 2018 (signSGD), arXiv:1802.04434, with Seide et al. 2014's mean; drawn
signs, Wen et al. 2017 (TernGrad), arXiv:1705.07878, without its zeros.
"""

from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import (
    ContainerSizes,
    Encoded,
    StreamReader,
    refuse_values_without_scale,
)
from keyflock_compression.errors import NonFinite
from keyflock_compression.layout import Layout, blocks, row_count
from keyflock_compression.packing import pack_bits, packed_bytes, to_signed, unpack_bits
from keyflock_compression.rounding import quantize
from keyflock_compression.spec import DenseSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate

#: The largest quantized number by bits; one bit has only signs.
_LEVELS: Final = MappingProxyType({8: 127, 4: 7, 2: 1, 1: 1})


class DenseCodec:
    """The codec writes one stream of P quantized numbers, and one scale per row.

    The scale is the row's largest magnitude over the largest quantized number.

    Guarantees:
        A value's error is at most half a scale (nearest), or below one scale and zero in expectation
        (stochastic), up to float32 rounding. One bit: at most the row's largest magnitude (nearest), or twice
        it and zero in expectation (stochastic).
    """

    def sizes(self, layout: Layout, spec: DenseSpec) -> ContainerSizes:
        """Return one scale per row and ``bits`` per value."""
        return ContainerSizes(row_count(layout), (packed_bytes(layout.size, spec.bits or 8),))

    def encode(self, delta: Float32, layout: Layout, spec: DenseSpec, seed: int) -> Encoded:
        """Divide each row by its scale, and encode the quantized numbers."""
        bits = spec.bits or 8
        if bits == 1:
            return _signs(delta, layout, spec, seed)
        levels = _LEVELS[bits]
        scales = (_by_row(np.maximum, delta, layout) / np.float32(levels)).astype(np.float32)
        quantized = quantize(delta / _spread(_divisors(scales), layout), spec.rounding, seed)
        if not scales.all():  # what is too small for a scale in float32 is zero, however it is rounded
            quantized[_spread(scales, layout) == 0] = 0
        codes = np.clip(quantized, -levels, levels).astype(np.int8).view(np.uint8)
        return Encoded(scales, (pack_bits(codes & np.uint8((1 << bits) - 1), bits),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: DenseSpec
    ) -> DecodedUpdate:
        """Decode each quantized number times its row's scale."""
        with np.errstate(over="ignore"):
            quantized = _read_quantized(streams, layout, spec.bits or 8)
            values = _scaled_rows(quantized, scales, layout, has_zero=spec.bits != 1)
        # Only a scale that no encoder writes gets there; smaller ones make a check of every value needless.
        if scales.max(initial=0.0) > np.finfo(np.float32).max / 129 and not np.isfinite(values).all():
            raise NonFinite("a value times its row's scale is infinite")
        return DenseUpdate(values)


def _signs(delta: Float32, layout: Layout, spec: DenseSpec, seed: int) -> Encoded:
    """Encode one bit per value, which is set for a negative one."""
    if spec.rounding == "nearest":
        # The largest value is taken out of the sum, which could be beyond float32.
        largest = _divisors(_by_row(np.maximum, delta, layout))
        sums = _by_row(np.add, delta / _spread(largest, layout), layout)
        means = ((sums / np.maximum(_columns(layout), 1)) * largest).astype(np.float32)
        is_negative = (delta < 0) & (_spread(means, layout) > 0)
        return Encoded(means, (pack_bits(is_negative.view(np.uint8), 1),))
    scales = _by_row(np.maximum, delta, layout)
    relative = delta / _spread(_divisors(scales), layout)
    is_positive = quantize((relative + np.float32(1)) / np.float32(2), "stochastic", seed) >= 1
    is_negative = ~is_positive & (_spread(scales, layout) > 0)
    return Encoded(scales, (pack_bits(is_negative.view(np.uint8), 1),))


def _read_quantized(streams: StreamReader, layout: Layout, bits: int) -> NDArray[np.int8]:
    """Read the stream's quantized numbers. Shape (P,)."""
    codes = unpack_bits(streams, 0, layout.size, bits)
    match bits:
        case 8:
            return codes.view(np.int8)
        case 1:
            return np.int8(1) - np.int8(2) * codes.view(np.int8)
        case _:
            return to_signed(codes, bits)


def _by_row(reduced: np.ufunc, vector: Float32, layout: Layout) -> Float32:
    """Reduce each row's magnitudes to their sum or maximum. Shape (rows of all tensors,), float32."""
    return np.concatenate(
        [
            reduced.reduce(
                np.abs(vector[block.offset : block.offset + block.rows * block.columns]).reshape(
                    block.rows, block.columns
                ),
                axis=1,
                initial=np.float32(0),
            )
            for block in blocks(layout)
        ]
        or [np.empty(0, np.float32)]
    )


def _scaled_rows(quantized: NDArray[np.int8], scales: Float32, layout: Layout, *, has_zero: bool) -> Float32:
    """Multiply quantized numbers with their row's scale. Shape (P,), float32.

    Args:
        quantized: The numbers, P of them.
        scales: One for each row of the layout.
        layout: The layout of the numbers.
        has_zero: Whether 0 is among the numbers; if not, 1 stands for it in a row of zeros.
    Raises:
        MalformedContainer: a row of zeros has a number that is none.
    """
    vector = np.empty(layout.size, np.float32)
    first = 0
    for block in blocks(layout):
        part = slice(block.offset, block.offset + block.rows * block.columns)
        rows = quantized[part].reshape(block.rows, block.columns)
        column = scales[first : first + block.rows, np.newaxis]
        unscaled = rows[column[:, 0] == 0]
        refused = unscaled != 0 if has_zero else unscaled < 0
        refuse_values_without_scale(np.float32(0), int(np.count_nonzero(refused)))
        np.multiply(rows, column, out=vector[part].reshape(block.rows, block.columns), casting="unsafe")
        first += block.rows
    return vector


def _spread(scales: Float32, layout: Layout) -> Float32:
    """Return one scale per value."""
    return np.repeat(scales, _columns(layout))


def _columns(layout: Layout) -> NDArray[np.int64]:
    """Return the number of values in each row. Shape (rows of all tensors,)."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.full(block.rows, block.columns) for block in blocks(layout))]
    )


def _divisors(scales: Float32) -> Float32:
    """Return the scales, and 1 where a row has only zeros."""
    return np.where(scales > 0, scales, np.float32(1))
