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
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.cells import CELL, Cells, cells_of, places_of
from keyflock_compression.deadzone import MOST_WHOLE, step_of
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.family import Encoded, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.rounding import to_whole
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

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The delta over its step, as gaps and magnitudes."""
        step = step_of(delta, spec, seed)
        whole = np.zeros_like(delta) if step == 0.0 else to_whole(delta / step, spec.rounding, seed)
        indices = np.flatnonzero(whole != 0)
        places = places_of(indices, layout)
        order = np.argsort(places)
        places, values = places[order], whole[indices[order]].astype(np.int64)

        cell, within = np.divmod(places, CELL)
        used, first, counts = np.unique(cell, return_index=True, return_counts=True)
        gaps = np.diff(within, prepend=-1) - 1
        gaps[first] = within[first]
        magnitudes = np.abs(values)
        is_large = magnitudes >= _LEAST_LARGE
        large = magnitudes[is_large] - _LEAST_LARGE
        in_use = np.zeros(cells_of(layout).starts.size, bool)
        in_use[used] = True
        streams = (
            np.packbits(in_use, bitorder="little").tobytes(),
            (counts - 1).astype(np.uint8).tobytes(),
            (2 * gaps + is_large).astype(np.uint8).tobytes(),
            np.packbits(values < 0, bitorder="little").tobytes(),
            np.minimum(large, _ESCAPE).astype(np.uint8).tobytes(),
            (large[large >= _ESCAPE] + _LEAST_LARGE).astype("<i4").tobytes(),
        )
        return Encoded(np.array([step], np.float32), streams)

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """Indices from gaps, values from signs and magnitudes."""
        streams.expect(6)
        cells = cells_of(layout)
        in_use = np.unpackbits(_bit_bytes(streams, 0, cells.starts.size), bitorder="little")
        used = np.flatnonzero(in_use.view(np.bool_))
        counts = np.frombuffer(streams.read(1, used.size), np.uint8).astype(np.int64) + 1
        total = int(counts.sum())
        if total > layout.size:
            raise MalformedContainer("the cells hold more values than the layout has")
        symbols = np.frombuffer(streams.read(2, total), np.uint8)
        indices = _indices(symbols, used, counts, cells)
        signs = _bit_bytes(streams, 3, total)
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


def _bit_bytes(streams: StreamReader, index: int, count: int) -> NDArray[np.uint8]:
    """Stream ``index``: bits, the lowest of each byte first; those behind the last must be zero."""
    data = streams.read(index, -(-count // 8))
    if count % 8 and data[-1] >> (count % 8):
        raise MalformedContainer(f"stream {index} has bits behind its last one")
    return np.frombuffer(data, np.uint8)


def _indices(
    symbols: NDArray[np.uint8], used: NDArray[np.intp], counts: NDArray[np.int64], cells: Cells
) -> NDArray[np.int64]:
    """Where the values are in the flat vector: gaps added up within each cell. Shape (N,)."""
    # One running sum over all cells; a cell's own begins where the sum stood at the end of the one before.
    running = np.cumsum((symbols >> 1) + np.uint8(1), dtype=np.int64)
    ends = np.cumsum(counts)
    at_end = running[ends - 1]
    at_begin = np.concatenate((np.zeros(1, np.int64), at_end[:-1]))[: used.size]
    if (at_end - at_begin > cells.lengths[used]).any():
        raise MalformedContainer("a value lies behind its cell's end")
    for first_cell, end_cell, stride in cells.strided:
        first, end = np.searchsorted(used, (first_cell, end_cell))
        running[ends[first - 1] if first else 0 : ends[end - 1] if end else 0] *= stride
    running += np.repeat(cells.starts[used] - (at_begin + 1) * cells.strides[used], counts)
    return running


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
