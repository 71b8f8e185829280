"""The largest values and nothing else, their magnitudes on a logarithmic scale.

For comparison, and where as many values must be sent by every phone: at equal bits ``deadzone_rows`` has the
smaller error. A magnitude is the largest one over a power of the eighth root of two, so that heavy tails keep
their small ones: within 4.5 % of each, where one linear scale rounds them away.

Source: Aji and Heafield 2017, arXiv:1704.05021; docs/decisions/0027.
"""

from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.family import Encoded, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.places import places_read, places_to_write
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

#: Levels from one power of two to the next.
_AN_OCTAVE: Final = 8
#: 2 ** (-i / 8) in float32, written out so that every language has the same bits.
ROOTS: Final = np.array(
    [0x3F800000, 0x3F6AC0C7, 0x3F5744FD, 0x3F45672A, 0x3F3504F3, 0x3F25FED7, 0x3F1837F0, 0x3F0B95C2],
    "<u4",
).view("<f4")


class TopkCodec:
    """One scale, the largest magnitude; four streams: cells in use, counts, gaps with signs, levels.

    Guarantees:
        ``round(keep_ratio * P)`` values are sent, at least one, those of the largest magnitude; of equal ones
        those that come first. Each is within 4.5 % of itself, or 2**-31.9 of the largest.
    Edge cases:
        fewer values than that are not zero -> those; zero vector -> scale 0, no value
    """

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The largest values' places, signs and levels."""
        assert spec.keep_ratio is not None  # noqa: S101 - CodecSpec holds it for topk
        kept = max(1, round(spec.keep_ratio * delta.size))
        magnitudes = np.abs(delta)
        threshold = np.partition(magnitudes, delta.size - kept)[delta.size - kept]
        above = np.flatnonzero(magnitudes > threshold)
        equal = np.flatnonzero(magnitudes == threshold)[: kept - above.size if threshold > 0 else 0]
        places = places_to_write(np.sort(np.concatenate((above, equal))), layout)
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
        streams.expect(4)
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
