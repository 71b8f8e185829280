"""The largest values and nothing else, their magnitudes on a logarithmic scale.

For comparison, and where as many values must be sent by every phone: at equal bits ``deadzone_rows`` has the
smaller error. A magnitude is the largest one over a power of the eighth root of two, so that heavy tails keep
their small ones: within 4.5 % of each, where one linear scale rounds them away.

Source: Aji and Heafield 2017, arXiv:1704.05021; docs/decisions/0027.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.places import in_use_bytes, places_read, places_to_write
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

#: Levels from one power of two to the next.
_AN_OCTAVE: Final = 8
#: The threshold's rank in a sample.
_RANK: Final = 1_024
#: 2 ** (-i / 8) in float32, written out so that every language has the same bits.
ROOTS: Final = np.array(
    [0x3F800000, 0x3F6AC0C7, 0x3F5744FD, 0x3F45672A, 0x3F3504F3, 0x3F25FED7, 0x3F1837F0, 0x3F0B95C2],
    "<u4",
).view("<f4")


class TopkCodec:
    """One scale, the largest magnitude; four streams: cells in use, counts, gaps with signs, levels.

    Guarantees:
        ``round(keep_ratio * P)`` values are sent, at least one, those of the largest magnitude; of equal ones
        those that come first. Each is within 4.5 % of itself, or 2**-31.9 of the largest. ``sampled``: none
        that is left out is larger than one that is sent; they are never more than 5/4 of that number, and of
        a delta with so many values that are not zero at least 3/4 of it, but for a chance below 1e-16.
    Edge cases:
        fewer values than that are not zero -> those; zero vector -> scale 0, no value
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """A bit a cell; the rest is as long as the delta has values."""
        return Sizes(1, (in_use_bytes(layout), None, None, None))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The largest values' places, signs and levels."""
        assert spec.keep_ratio is not None  # noqa: S101 - CodecSpec holds it for topk
        kept = max(1, round(spec.keep_ratio * delta.size))
        magnitudes = np.abs(delta)
        is_sampled = spec.selection == "sampled"
        chosen = _sampled(magnitudes, kept, seed) if is_sampled else _largest(magnitudes, kept)
        places = places_to_write(chosen, layout)
        values = magnitudes[places.indices].astype(np.float64)
        most = magnitudes.max(initial=0.0)
        levels = np.rint(_AN_OCTAVE * np.log2(most / values)) if values.size else values
        streams = (
            places.in_use,
            places.counts,
            (2 * places.gaps + (delta[places.indices] < 0)).astype(np.uint8).tobytes(),
            np.minimum(levels, 255).astype(np.uint8).tobytes(),
        )
        return Encoded(np.array([most], np.float32), streams)

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """The largest magnitude times each level."""
        symbols, indices = places_read(streams, layout)
        levels = np.frombuffer(streams.read(3, symbols.size), np.uint8)
        octaves = np.ldexp(np.float32(1), -np.arange(256 // _AN_OCTAVE))
        table = ((scales[0] * ROOTS) * octaves[:, np.newaxis]).reshape(-1).astype(np.float32)
        values = table[levels]
        np.negative(values, out=values, where=(symbols & 1).view(np.bool_))
        if symbols.size > SPARSE_SHARE * layout.size:
            vector = np.zeros(layout.size, np.float32)
            vector[indices] = values
            return DenseUpdate(vector)
        return SparseUpdate(layout.size, indices, values)


def _largest(magnitudes: Float32, kept: int) -> NDArray[np.intp]:
    """Where the ``kept`` largest are, ascending; of equal ones those that come first, and never a zero."""
    if not magnitudes.size:
        return np.empty(0, np.intp)
    threshold = np.partition(magnitudes, magnitudes.size - kept)[magnitudes.size - kept]
    above = np.flatnonzero(magnitudes > threshold)
    equal = np.flatnonzero(magnitudes == threshold)[: kept - above.size if threshold > 0 else 0]
    return np.sort(np.concatenate((above, equal)))


def _sampled(magnitudes: Float32, kept: int, seed: int) -> NDArray[np.intp]:
    """Where those above a sample's threshold are, ascending: about ``kept``, without ordering them all.

    The threshold is the 1,024th largest of so many draws that 1,024 are expected among the ``kept`` largest.
    By Chernoff's bound fewer than 3/4 of ``kept`` lie above it with a chance of exp(-38), and more than 5/4
    with exp(-27), or where many are equal: then the largest of them are taken.
    """
    draws = -(-_RANK * magnitudes.size // kept)
    if draws >= magnitudes.size:
        return _largest(magnitudes, kept)
    sample = magnitudes[np.random.Generator(np.random.SFC64(seed)).integers(magnitudes.size, size=draws)]
    threshold = np.partition(sample, draws - _RANK)[draws - _RANK]
    found = np.flatnonzero(magnitudes >= max(threshold, np.finfo(np.float32).smallest_subnormal))
    if 4 * found.size > 5 * kept:
        return found[_largest(magnitudes[found], kept)]
    return found
