"""Every value in a few bits, one scale a row.

A row is a vocabulary row of the embedding, a row of a matrix, or a whole bias vector. One scale a row rather
than a tensor: rows of rare words are thousands of times smaller than those of common ones, and would all
become zero under the tensor's scale.

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
from keyflock_compression.errors import NonFinite
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout, blocks, row_count
from keyflock_compression.packing import as_signed, packed, packed_bytes, unpacked
from keyflock_compression.rounding import to_whole
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate

#: The largest whole number by bits; one bit has only signs.
_LEVELS: Final = MappingProxyType({8: 127, 4: 7, 2: 1, 1: 1})


class DenseCodec:
    """One stream of P whole numbers; one scale a row: the row's largest magnitude over the largest number.

    Guarantees:
        A value's error is at most half a scale (nearest), or below one scale and zero in expectation
        (stochastic), up to float32 rounding. One bit: at most the row's largest magnitude (nearest), or twice
        it and zero in expectation (stochastic).
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """A scale a row, ``bits`` a value."""
        return Sizes(row_count(layout), (packed_bytes(layout.size, _bits(spec)),))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """Each row over its scale, as whole numbers."""
        bits = _bits(spec)
        if bits == 1:
            return _signs(delta, layout, spec, seed)
        levels = _LEVELS[bits]
        scales = (_by_row(np.maximum, delta, layout) / np.float32(levels)).astype(np.float32)
        whole = to_whole(delta / _spread(_divisors(scales), layout), spec.rounding, seed)
        codes = np.clip(whole, -levels, levels).astype(np.int8).view(np.uint8)
        return Encoded(scales, (packed(codes & np.uint8((1 << bits) - 1), bits),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """Each whole number times its row's scale."""
        with np.errstate(over="ignore"):
            values = _scaled_rows(_whole(streams, layout, _bits(spec)), scales, layout)
        # Only a scale that no encoder writes gets there; finite ones need no look at every value.
        if scales.max(initial=0.0) > np.finfo(np.float32).max / 129 and not np.isfinite(values).all():
            raise NonFinite("a value times its row's scale is infinite")
        return DenseUpdate(values)


def _bits(spec: CodecSpec) -> int:
    return spec.bits or 8


def _signs(delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
    """One bit a value: is it negative."""
    if spec.rounding == "nearest":
        # The largest value is taken out of the sum, which could be beyond float32.
        most = _divisors(_by_row(np.maximum, delta, layout))
        sums = _by_row(np.add, delta / _spread(most, layout), layout)
        means = sums / np.maximum(_columns(layout), 1)
        return Encoded((means * most).astype(np.float32), (packed((delta < 0).view(np.uint8), 1),))
    scales = _by_row(np.maximum, delta, layout)
    relative = delta / _spread(_divisors(scales), layout)
    is_positive = to_whole((relative + np.float32(1)) / np.float32(2), "stochastic", seed) >= 1
    is_negative = ~is_positive & (_spread(scales, layout) > 0)
    return Encoded(scales, (packed(is_negative.view(np.uint8), 1),))


def _whole(streams: StreamReader, layout: Layout, bits: int) -> NDArray[np.int8]:
    """The stream's whole numbers. Shape (P,)."""
    codes = unpacked(streams, 0, layout.size, bits)
    match bits:
        case 8:
            return codes.view(np.int8)
        case 1:
            return np.int8(1) - np.int8(2) * codes.view(np.int8)
        case _:
            return as_signed(codes, bits)


def _by_row(reduced: np.ufunc, vector: Float32, layout: Layout) -> Float32:
    """Each row's magnitudes, added up or the largest of them. Shape (rows of all tensors,), float32."""
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


def _scaled_rows(whole: NDArray[np.int8], scales: Float32, layout: Layout) -> Float32:
    """Whole numbers times their row's scale. Shape (P,), float32."""
    vector = np.empty(layout.size, np.float32)
    first = 0
    for block in blocks(layout):
        part = slice(block.offset, block.offset + block.rows * block.columns)
        rows = whole[part].reshape(block.rows, block.columns)
        column = scales[first : first + block.rows, np.newaxis]
        np.multiply(rows, column, out=vector[part].reshape(block.rows, block.columns), casting="unsafe")
        first += block.rows
    return vector


def _spread(scales: Float32, layout: Layout) -> Float32:
    """One scale a value."""
    return np.repeat(scales, _columns(layout))


def _columns(layout: Layout) -> NDArray[np.int64]:
    """Values of each row. Shape (rows of all tensors,)."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.full(block.rows, block.columns) for block in blocks(layout))]
    )


def _divisors(scales: Float32) -> Float32:
    """The scales, and 1 where there is nothing to divide."""
    return np.where(scales > 0, scales, np.float32(1))
