"""Rows that the server chose, as whole numbers of one step that all phones share: they can be summed unseen.

A secure sum adds vectors of whole numbers and shows only the total. So every phone of a round sends the same
coordinates in the same units: some rows of the tensors that have one for each word of the vocabulary, and all
other tensors whole. The vocabulary is ordered by frequency, so its first rows hold most of a delta's energy;
a server can send the rest round by round in slices.

The codec is the same numbers in a container, for rounds without a secure sum. ``rowset_integers`` is what a
phone gives to one, before any weight, and ``rowset_update`` what comes out.

Source: Bonawitz et al. 2017, doi:10.1145/3133956.3133982; stochastic rounding before it, Kairouz et al. 2021
(distributed discrete Gaussian), arXiv:2102.06387.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.errors import NonFinite, SpecError, WrongLayout
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout, blocks
from keyflock_compression.packing import as_signed, packed, packed_bytes, unpacked
from keyflock_compression.rounding import to_whole
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate


class RowsetCodec:
    """No scale, for the spec has the step; one stream: N whole numbers.

    Guarantees:
        A value up to ``(2**(bits - 1) - 1) * step`` is within half a step of itself (nearest), or one step
        and right in expectation (stochastic), up to float32 rounding; what is larger is cut to that.
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """``bits`` for each value that is sent."""
        return Sizes(0, (packed_bytes(rowset_size(layout, spec), _bits(spec)),))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The whole numbers, side by side."""
        whole, bits = rowset_integers(delta, layout, spec, seed=seed), _bits(spec)
        if bits == 16:
            return Encoded(np.empty(0, np.float32), (whole.astype("<i2").tobytes(),))
        codes = whole.astype(np.int8).view(np.uint8) & np.uint8((1 << bits) - 1)
        return Encoded(np.empty(0, np.float32), (packed(codes, bits),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """The whole numbers times the step, and zeros between them."""
        count, bits = rowset_size(layout, spec), _bits(spec)
        if bits == 16:
            return rowset_update(
                as_signed(np.frombuffer(streams.read(0, 2 * count), "<u2"), 16), layout, spec
            )
        return rowset_update(as_signed(unpacked(streams, 0, count, bits), bits), layout, spec)


def rowset_size(layout: Layout, spec: CodecSpec) -> int:
    """N: how many values are sent; raises SpecError when the vocabulary has not so many rows."""
    return sum(part.stop - part.start for part in _parts(layout, spec))


def rowset_integers(delta: Float32, layout: Layout, spec: CodecSpec, *, seed: int) -> NDArray[np.int32]:
    """One phone's part in a secure sum: its delta in whole steps, before any weight.

    Args:
        delta: Shape (P,), float32.
        layout: Of it.
        spec: Of codec ``rowset``.
        seed: Of stochastic rounding.
    Returns:
        Shape (N,), N = ``rowset_size``; each at most ``2**(bits - 1) - 1`` in magnitude, so that the sum of n
        phones' fits ``bits + ceil(log2(n))`` bits.
    Raises:
        SpecError: the vocabulary has not so many rows.
        WrongLayout: the delta has another size than the layout.
        NonFinite: NaN or infinity in the delta; no sum would show it.
    """
    assert spec.step is not None  # noqa: S101 - CodecSpec holds it for rowset
    if delta.shape != (layout.size,):
        raise WrongLayout(f"the delta has shape {delta.shape}; ({layout.size},) was expected")
    sent = np.concatenate([np.empty(0, np.float32), *(delta[part] for part in _parts(layout, spec))])
    if not np.isfinite(sent).all():
        raise NonFinite("the delta holds NaN or infinity")
    most = np.float32((1 << (_bits(spec) - 1)) - 1)
    with np.errstate(over="ignore"):
        scaled = sent / np.float32(spec.step)
    return np.clip(to_whole(np.clip(scaled, -most, most), spec.rounding, seed), -most, most).astype(np.int32)


def rowset_update(integers: NDArray[np.signedinteger], layout: Layout, spec: CodecSpec) -> DecodedUpdate:
    """The update that a sum of phones' integers says: their deltas' sum, which the caller divides by weights.

    Args:
        integers: Shape (N,); of one phone, or the sum of several.
        layout: Of the update.
        spec: Of codec ``rowset``.
    Raises:
        SpecError: the vocabulary has not so many rows.
        WrongLayout: another number of integers.
    """
    assert spec.step is not None  # noqa: S101 - CodecSpec holds it for rowset
    count = rowset_size(layout, spec)
    if integers.shape != (count,):
        raise WrongLayout(f"the integers have shape {integers.shape}; ({count},) was expected")
    vector = np.zeros(layout.size, np.float32)
    first = 0
    for part in _parts(layout, spec):
        end = first + part.stop - part.start
        np.multiply(integers[first:end].astype(np.float32), np.float32(spec.step), out=vector[part])
        first = end
    return DenseUpdate(vector)


def _parts(layout: Layout, spec: CodecSpec) -> Iterator[slice]:
    """What is sent of each tensor, in the layout's order."""
    start, count = spec.row_start, spec.row_count
    assert start is not None  # noqa: S101 - CodecSpec holds both for rowset
    assert count is not None  # noqa: S101
    words = layout.shapes[0][0] if layout.shapes and layout.shapes[0] else 0
    if start + count > words:
        raise SpecError(f"row_start and row_count end at row {start + count}; the vocabulary has {words}.")
    for shape, block in zip(layout.shapes, blocks(layout), strict=True):
        size = block.rows * block.columns
        if shape and shape[0] == words:
            row = size // words if words else 0
            yield slice(block.offset + start * row, block.offset + (start + count) * row)
        else:
            yield slice(block.offset, block.offset + size)


def _bits(spec: CodecSpec) -> int:
    assert spec.bits is not None  # noqa: S101 - CodecSpec holds it for rowset
    return spec.bits
