"""The dead-zone quantiser with a code that exploits rows: only what is not zero is written, and read.

The quantiser is that of ``deadzone``. What is left of a delta, one value in forty, sits together: in the
words that the phone typed and the units that they moved. So the streams say which cells (``cells.py``) hold
anything, how many values, how far each is from the one before it within its cell, and whether its magnitude
is more than one step, gap and magnitude in one byte; signs are bits; larger magnitudes follow.

Decoding touches nothing of the vector's size: it gives indices and values, ready to be added.

Source: docs/decisions/0026, with what else was measured.
"""

from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.deadzone import MOST_WHOLE, step_of, steps_of
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.places import bits_read, in_use_bytes, places_read, places_to_write
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

#: A magnitude in the fifth stream is its byte and two; this byte says that the sixth stream holds it.
_ESCAPE: Final = 255
_LEAST_LARGE: Final = 2
#: What the eight signs in a byte say: looking them up is three times as quick as unpacking bits.
_SIGNS: Final = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"), -1.0, 1.0
).astype(np.float32)


class DeadzoneRowsCodec:
    """One scale, the step; six streams: cells in use, counts, gaps, signs, magnitudes, outliers.

    Guarantees:
        Those of ``deadzone``: the same values come out, bit for bit. Decoding takes time in proportion to the
        values that are not zero, and a bit a cell.
    Edge cases:
        zero vector -> step 0, no cell in use
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """A bit a cell; the rest is as long as the delta has values."""
        return Sizes(1, (in_use_bytes(layout), None, None, None, None, None))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The delta over its step, as gaps and magnitudes."""
        step = step_of(delta, spec, seed)
        whole = np.zeros_like(delta) if step == 0.0 else steps_of(delta, step, spec, seed)
        places = places_to_write(np.flatnonzero(whole != 0), layout)
        values = whole[places.indices].astype(np.int64)
        magnitudes = np.abs(values)
        is_large = magnitudes >= _LEAST_LARGE
        large = magnitudes[is_large] - _LEAST_LARGE
        streams = (
            places.in_use,
            places.counts,
            (2 * places.gaps + is_large).astype(np.uint8).tobytes(),
            np.packbits(values < 0, bitorder="little").tobytes(),
            np.minimum(large, _ESCAPE).astype(np.uint8).tobytes(),
            (large[large >= _ESCAPE] + _LEAST_LARGE).astype("<i4").tobytes(),
        )
        return Encoded(np.array([step], np.float32), streams)

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """Indices from gaps, values from signs and magnitudes."""
        symbols, indices = places_read(streams, layout)
        total = symbols.size
        signs = bits_read(streams, 3, total)
        values = np.take(_SIGNS * scales[0], signs, axis=0).reshape(-1)[:total]
        large = np.flatnonzero((symbols & 1).view(bool))
        magnitudes = _magnitudes(streams, large.size)
        with np.errstate(over="ignore"):
            largest = magnitudes.max(initial=0) * scales[0]
        if not np.isfinite(largest):
            raise NonFinite("a value times the step is infinite")
        values[large] *= magnitudes
        if total > SPARSE_SHARE * layout.size:
            vector = np.zeros(layout.size, np.float32)
            vector[indices] = values
            return DenseUpdate(vector)
        return SparseUpdate(layout.size, indices, values)


def _magnitudes(streams: StreamReader, count: int) -> Float32:
    """Whole numbers from 2 on. Shape (count,), float32."""
    data = np.frombuffer(streams.read(4, count), np.uint8)
    magnitudes = data.astype(np.float32) + np.float32(_LEAST_LARGE)
    is_outlier = data == _ESCAPE
    outliers = np.frombuffer(streams.read(5, 4 * int(is_outlier.sum())), "<i4")
    if outliers.size:
        if outliers.min() < _ESCAPE + _LEAST_LARGE or outliers.max() > MOST_WHOLE:
            raise MalformedContainer("an outlier is one that its byte could have held, or is beyond 2**23")
        magnitudes[is_outlier] = outliers
    return magnitudes
