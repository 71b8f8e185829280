"""The codec that sends chosen rows as whole numbers of one shared step, so that they can be summed unseen.

A secure sum adds vectors of whole numbers and reveals only the total. So every phone of a round sends the
same coordinates in the same units: the rows that the server chose from the tensors that have one for each
word of the vocabulary, and all other tensors whole. The vocabulary is ordered by frequency, so its first rows
hold most of a delta's energy; a server can ask for the rest round by round in slices.

The codec puts the same numbers into a container, for rounds without a secure sum. ``rowset_integers`` returns
a phone's input to a secure sum, before any weight, and ``rowset_update`` reads its output.

Source: Bonawitz et al. 2017, doi:10.1145/3133956.3133982; stochastic rounding before it, Kairouz et al. 2021
(distributed discrete Gaussian), arXiv:2102.06387.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import ContainerSizes, Encoded, StreamReader
from keyflock_compression.errors import NonFinite, SpecError, WrongLayout
from keyflock_compression.layout import Layout, blocks
from keyflock_compression.packing import pack_bits, packed_bytes, to_signed, unpack_bits
from keyflock_compression.rounding import quantize
from keyflock_compression.spec import RowsetSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate


class RowsetCodec:
    """The codec writes one stream of N whole numbers, and no scale, for the spec has the step.

    Guarantees:
        A value up to ``(2**(bits - 1) - 1) * step`` is within half a step of itself (nearest), or one step
        and right in expectation (stochastic), up to float32 rounding; a larger value is clipped to that.
    """

    def sizes(self, layout: Layout, spec: RowsetSpec) -> ContainerSizes:
        """Return ``bits`` for each value that is sent."""
        return ContainerSizes(0, (packed_bytes(rowset_size(layout, spec), spec.bits),))

    def encode(self, delta: Float32, layout: Layout, spec: RowsetSpec, seed: int) -> Encoded:
        """Encode the whole numbers, packed side by side."""
        integers, bits = rowset_integers(delta, layout, spec, seed=seed), spec.bits
        if bits == 16:
            return Encoded(np.empty(0, np.float32), (integers.astype("<i2").tobytes(),))
        codes = integers.astype(np.int8).view(np.uint8) & np.uint8((1 << bits) - 1)
        return Encoded(np.empty(0, np.float32), (pack_bits(codes, bits),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: RowsetSpec
    ) -> DecodedUpdate:
        """Decode the whole numbers times the step, with zeros for what was not sent."""
        count, bits = rowset_size(layout, spec), spec.bits
        if bits == 16:
            return rowset_update(
                to_signed(np.frombuffer(streams.read(0, 2 * count), "<u2"), 16), layout, spec
            )
        return rowset_update(to_signed(unpack_bits(streams, 0, count, bits), bits), layout, spec)


def rowset_size(layout: Layout, spec: RowsetSpec) -> int:
    """Return N, the number of values that are sent; raise SpecError when the vocabulary has fewer rows."""
    return sum(part.stop - part.start for part in _sent_slices(layout, spec))


def rowset_integers(delta: Float32, layout: Layout, spec: RowsetSpec, *, seed: int) -> NDArray[np.int32]:
    """Return one phone's input to a secure sum: its delta in whole steps, before any weight.

    Args:
        delta: Shape (P,), float32.
        layout: The layout of the delta.
        spec: The rows, the step and the bits.
        seed: The seed of stochastic rounding.
    Returns:
        Shape (N,), N = ``rowset_size``; each at most ``2**(bits - 1) - 1`` in magnitude, so that the sum of n
        phones' fits ``bits + ceil(log2(n))`` bits.
    Raises:
        SpecError: the vocabulary has fewer rows.
        WrongLayout: the delta has another size than the layout.
        NonFinite: the delta holds NaN or infinity, which a sum would not show.
    """
    if delta.shape != (layout.size,):
        raise WrongLayout(f"the delta has shape {delta.shape}; ({layout.size},) was expected")
    sent = np.concatenate([np.empty(0, np.float32), *(delta[part] for part in _sent_slices(layout, spec))])
    if not np.isfinite(sent).all():
        raise NonFinite("the delta holds NaN or infinity")
    largest = np.float32((1 << (spec.bits - 1)) - 1)
    with np.errstate(over="ignore"):
        scaled = sent / np.float32(spec.step)
    return np.clip(
        quantize(np.clip(scaled, -largest, largest), spec.rounding, seed), -largest, largest
    ).astype(np.int32)


def rowset_update(integers: NDArray[np.signedinteger], layout: Layout, spec: RowsetSpec) -> DecodedUpdate:
    """Return the sum of deltas for a sum of phones' integers; the caller divides it by the weights.

    Args:
        integers: The integers of one phone, or the sum of several. Shape (N,).
        layout: The layout of the update.
        spec: The rows, the step and the bits.
    Raises:
        SpecError: the vocabulary has fewer rows.
        WrongLayout: the number of integers is another.
    """
    count = rowset_size(layout, spec)
    if integers.shape != (count,):
        raise WrongLayout(f"the integers have shape {integers.shape}; ({count},) was expected")
    vector = np.zeros(layout.size, np.float32)
    first = 0
    for part in _sent_slices(layout, spec):
        end = first + part.stop - part.start
        np.multiply(integers[first:end].astype(np.float32), np.float32(spec.step), out=vector[part])
        first = end
    return DenseUpdate(vector)


def _sent_slices(layout: Layout, spec: RowsetSpec) -> Iterator[slice]:
    """Yield the slice of the flat vector that is sent of each tensor, in the layout's order."""
    start, count = spec.row_start, spec.row_count
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
