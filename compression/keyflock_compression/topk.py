"""The codec that sends only the largest values, with their magnitudes on a logarithmic scale.

It is for comparison, and for tasks in which every phone must send as many values: at equal bits
``deadzone_rows`` has the smaller error. A magnitude is the largest one over a power of the eighth root of
two, so that heavy tails keep their small ones: within 4.5 % of each, where one linear scale rounds them away.

Source: Aji and Heafield 2017, arXiv:1704.05021; docs/decisions/0027.
"""

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
from keyflock_compression.layout import Layout
from keyflock_compression.positions import decode_positions, encode_positions, in_use_bytes
from keyflock_compression.spec import TopkSpec
from keyflock_compression.update import DecodedUpdate, update_of

#: The number of levels from one power of two to the next.
_LEVELS_PER_OCTAVE: Final = 8
#: The threshold's rank in a sample.
_RANK: Final = 1_024
#: 2 ** (-i / 8) in float32, written out so that every language has the same bits.
ROOTS: Final = np.array(
    [0x3F800000, 0x3F6AC0C7, 0x3F5744FD, 0x3F45672A, 0x3F3504F3, 0x3F25FED7, 0x3F1837F0, 0x3F0B95C2],
    "<u4",
).view("<f4")


class TopkCodec:
    """The codec writes one scale, the largest magnitude, and four streams.

    The streams are the cells in use, their counts, gaps with signs, and levels.


    Guarantees:
        ``round(keep_ratio * P)`` values are sent, at least one, those of the largest magnitude; of equal ones
        those that come first. Each is within 4.5 % of itself, or 2**-31.9 of the largest. ``sampled``: none
        that is left out is larger than one that is sent; they are never more than 5/4 of that number, and of
        a delta with so many values that are not zero at least 3/4 of it, but for a chance below 1e-16.
    Edge cases:
        fewer values than that are not zero -> those; zero vector -> scale 0, no value
    """

    def sizes(self, layout: Layout, spec: TopkSpec) -> ContainerSizes:
        """Return a bit per cell; the other sizes depend on the delta."""
        return ContainerSizes(1, (in_use_bytes(layout), None, None, None))

    def encode(self, delta: Float32, layout: Layout, spec: TopkSpec, seed: int) -> Encoded:
        """Encode the largest values' positions, signs and levels."""
        count = max(1, round(spec.keep_ratio * delta.size))
        magnitudes = np.abs(delta)
        is_sampled = spec.selection == "sampled"
        chosen = (
            _above_sampled_threshold(magnitudes, count, seed)
            if is_sampled
            else _largest_indices(magnitudes, count)
        )
        positions = encode_positions(chosen, layout)
        values = magnitudes[positions.indices].astype(np.float64)
        largest = magnitudes.max(initial=0.0)
        levels = np.rint(_LEVELS_PER_OCTAVE * np.log2(largest / values)) if values.size else values
        streams = (
            positions.in_use,
            positions.counts,
            (2 * positions.gaps + (delta[positions.indices] < 0)).astype(np.uint8).tobytes(),
            np.minimum(levels, 255).astype(np.uint8).tobytes(),
        )
        return Encoded(np.array([largest], np.float32), streams)

    def decode(self, scales: Float32, streams: StreamReader, layout: Layout, spec: TopkSpec) -> DecodedUpdate:
        """Decode the largest magnitude times each level."""
        symbols, indices = decode_positions(streams, layout)
        refuse_values_without_scale(scales[0], symbols.size)
        levels = np.frombuffer(streams.read(3, symbols.size), np.uint8)
        octaves = np.ldexp(np.float32(1), -np.arange(256 // _LEVELS_PER_OCTAVE))
        table = ((scales[0] * ROOTS) * octaves[:, np.newaxis]).reshape(-1).astype(np.float32)
        values = table[levels]
        # The spare bit becomes the sign's bit.
        bits = values.view(np.uint32)
        bits ^= symbols.astype(np.uint32) << np.uint32(31)
        return update_of(layout.size, indices, values)


def _largest_indices(magnitudes: Float32, count: int) -> NDArray[np.intp]:
    """Return the indices of the ``count`` largest, ascending; the first of equal ones, and never a zero."""
    if not magnitudes.size:
        return np.empty(0, np.intp)
    threshold = np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count]
    above = np.flatnonzero(magnitudes > threshold)
    equal = np.flatnonzero(magnitudes == threshold)[: count - above.size if threshold > 0 else 0]
    return np.sort(np.concatenate((above, equal)))


def _above_sampled_threshold(magnitudes: Float32, count: int, seed: int) -> NDArray[np.intp]:
    """Return the indices of about ``count`` largest, ascending: those above the threshold of a sample.

    The threshold is the 1,024th largest of so many draws that 1,024 are expected among the ``count`` largest.
    By Chernoff's bound fewer than 3/4 of ``count`` lie above it with a chance of exp(-38), and more than 5/4
    with exp(-27), or where many are equal: then the largest of them are taken.
    """
    draws = -(-_RANK * magnitudes.size // count)
    if draws >= magnitudes.size:
        return _largest_indices(magnitudes, count)
    sample = magnitudes[np.random.Generator(np.random.SFC64(seed)).integers(magnitudes.size, size=draws)]
    threshold = np.partition(sample, draws - _RANK)[draws - _RANK]
    found = np.flatnonzero(magnitudes >= max(threshold, np.finfo(np.float32).smallest_subnormal))
    if 4 * found.size > 5 * count:
        return found[_largest_indices(magnitudes[found], count)]
    return found
