"""The positions of a sparse vector's values as three streams: cells in use, counts, and gaps within a cell.

A gap is at most 127, so its byte has a spare bit, which each codec uses for something of its own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Indices
from keyflock_compression.cells import CELL, cell_positions, cells_of
from keyflock_compression.codec_interface import StreamReader
from keyflock_compression.errors import MalformedContainer
from keyflock_compression.layout import Layout


class PositionStreams(NamedTuple):
    """The streams that an encoder writes; it adds the third stream's spare bits itself."""

    #: Indices into the flat vector, in the order of the streams. Shape (N,).
    indices: NDArray[np.intp]
    #: The first stream and the second.
    in_use: bytes
    counts: bytes
    #: Number of positions between a value and the one before it in its cell. Shape (N,).
    gaps: NDArray[np.int64]


def in_use_bytes(layout: Layout) -> int:
    """Return the length of the first stream."""
    return -(-cells_of(layout).lengths.size // 8)


def encode_positions(indices: NDArray[np.intp], layout: Layout) -> PositionStreams:
    """Encode the positions of ascending indices."""
    positions = cell_positions(indices, layout)
    # All but the tensors that are read by columns is in order, which a stable sort makes use of.
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    cell = ordered // CELL
    within = ordered - CELL * cell
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    counts = np.diff(first, append=cell.size)
    gaps = np.diff(within, prepend=-1) - 1
    gaps[first] = within[first]
    in_use = np.zeros(cells_of(layout).lengths.size, bool)
    in_use[cell[first]] = True
    return PositionStreams(
        indices[order],
        np.packbits(in_use, bitorder="little").tobytes(),
        (counts - 1).astype(np.uint8).tobytes(),
        gaps,
    )


def decode_positions(streams: StreamReader, layout: Layout) -> tuple[NDArray[np.uint8], Indices]:
    """Decode the third stream (twice the gap plus the spare bit), and the indices, each there once.

    Raises:
        MalformedContainer: there are more values than the layout has, or one lies behind its cell's end.
    """
    cells = cells_of(layout)
    in_use = np.unpackbits(read_bits(streams, 0, cells.lengths.size), bitorder="little")
    (used,) = in_use.view(np.bool_).nonzero()
    # The first value of each cell in use, and the end of the last one's.
    firsts = np.zeros(used.size + 1, np.intp)
    counts = np.add(np.frombuffer(streams.read(1, used.size), np.uint8), 1, dtype=np.intp)
    counts.cumsum(out=firsts[1:])
    total = int(firsts[-1])
    if total > layout.size:
        raise MalformedContainer("the cells hold more values than the layout has")
    symbols = np.frombuffer(streams.read(2, total), np.uint8)
    # Narrow arrays: decoding takes as long as reading and writing them.
    kind: type[np.int32 | np.int64] = np.int32 if layout.size < 2**31 else np.int64
    steps = symbols >> 1
    steps += 1
    # One running sum over all cells; the sum at the end of the cell before is subtracted below. The sums may
    # wrap: what is left after the subtraction is right modulo 2**32, and less than that.
    indices = steps.cumsum(dtype=kind)
    at_ends = np.zeros(used.size + 1, kind)
    indices.take(firsts[1:] - 1, out=at_ends[1:])
    at_begins = at_ends[:-1]
    if (at_ends[1:] - at_begins > cells.lengths.take(used)).any():
        raise MalformedContainer("a value lies behind its cell's end")
    for first_cell, end_cell, stride in cells.strided:
        first, end = used.searchsorted((first_cell, end_cell))
        indices[firsts[first] : firsts[end]] *= stride
    origins = cells.origins.take(used) - at_begins * cells.strides.take(used)
    indices += origins.astype(kind).repeat(counts)
    return symbols, indices


def read_bits(streams: StreamReader, index: int, count: int) -> NDArray[np.uint8]:
    """Read stream ``index`` as bits, the lowest of each byte first; those behind the last must be zero."""
    data = streams.read(index, -(-count // 8))
    if count % 8 and data[-1] >> (count % 8):
        raise MalformedContainer(f"stream {index} has bits behind its last one")
    return np.frombuffer(data, np.uint8)
