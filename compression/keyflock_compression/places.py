"""Where the values of a sparse vector are, as three streams: cells in use, counts, and gaps within a cell.

A gap is at most 127, so its byte has a bit to spare; each codec says something else with it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.cells import CELL, Cells, cells_of, places_of
from keyflock_compression.errors import MalformedContainer
from keyflock_compression.family import StreamReader
from keyflock_compression.layout import Layout


class Places(NamedTuple):
    """What an encoder writes, all but the third stream's spare bits."""

    #: Into the flat vector, in the order of the streams. Shape (N,).
    indices: NDArray[np.intp]
    #: The first two streams.
    in_use: bytes
    counts: bytes
    #: Places between a value and the one before it in its cell. Shape (N,).
    gaps: NDArray[np.int64]


def in_use_bytes(layout: Layout) -> int:
    """Length of the first stream."""
    return -(-cells_of(layout).starts.size // 8)


def places_to_write(indices: NDArray[np.intp], layout: Layout) -> Places:
    """The places of ascending indices."""
    places = places_of(indices, layout)
    order = np.argsort(places)
    cell, within = np.divmod(places[order], CELL)
    used, first, counts = np.unique(cell, return_index=True, return_counts=True)
    gaps = np.diff(within, prepend=-1) - 1
    gaps[first] = within[first]
    in_use = np.zeros(cells_of(layout).starts.size, bool)
    in_use[used] = True
    return Places(
        indices[order],
        np.packbits(in_use, bitorder="little").tobytes(),
        (counts - 1).astype(np.uint8).tobytes(),
        gaps,
    )


def places_read(streams: StreamReader, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The third stream (twice the gap and the spare bit), and the indices that it gives; each index once.

    Raises:
        MalformedContainer: more values than the layout has, or one behind its cell's end.
    """
    cells = cells_of(layout)
    in_use = np.unpackbits(bits_read(streams, 0, cells.starts.size), bitorder="little")
    used = np.flatnonzero(in_use.view(np.bool_))
    counts = np.frombuffer(streams.read(1, used.size), np.uint8).astype(np.int64) + 1
    total = int(counts.sum())
    if total > layout.size:
        raise MalformedContainer("the cells hold more values than the layout has")
    symbols = np.frombuffer(streams.read(2, total), np.uint8)
    return symbols, _indices(symbols, used, counts, cells)


def bits_read(streams: StreamReader, index: int, count: int) -> NDArray[np.uint8]:
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
