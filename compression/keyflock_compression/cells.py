"""The parameters in short lines, so that what lies together in the network lies together in the bytes.

A line is a word of the embedding, a unit of a matrix, or a piece of a vector. A matrix that is wider than it
is high is read by columns: its units are columns, and one that learned much learned from many inputs. Lines
longer than 128 are cut, so that a place within a cell fits seven bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.layout import Block, Layout, blocks_of

#: Values of a cell, at most.
CELL: Final = 128

_Shapes = tuple[tuple[int, ...], ...]


class Cells(NamedTuple):
    """Where each cell's values are in the flat vector: ``starts + strides * place``, place < lengths.

    Arrays of shape (cells,), int64; not to be written to.
    """

    starts: NDArray[np.int64]
    strides: NDArray[np.int64]
    lengths: NDArray[np.int64]
    #: Tensors read by columns: the first cell, the one behind the last, and the stride of all.
    strided: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Lines:
    """One tensor, read along the shorter side."""

    block: Block
    #: The first line's first cell, counted over all tensors.
    first_cell: int
    is_by_columns: bool

    @property
    def number(self) -> int:
        """Lines in all."""
        return self.block.columns if self.is_by_columns else self.block.rows

    @property
    def width(self) -> int:
        """Values of a line."""
        return self.block.rows if self.is_by_columns else self.block.columns

    @property
    def cells(self) -> int:
        """Cells of a line."""
        return -(-self.width // CELL)


def cells_of(layout: Layout) -> Cells:
    """The layout's cells in the order of the streams."""
    return _cells(layout.shapes, layout.offsets)


def places_of(indices: NDArray[np.intp], layout: Layout) -> NDArray[np.int64]:
    """For each index into the flat vector: 128 times its cell, plus its place within the cell.

    Args:
        indices: Ascending. Shape (N,).
        layout: Of the vector.
    """
    places = np.empty(indices.size, np.int64)
    for lines in _lines(layout.shapes, layout.offsets):
        block = lines.block
        part = slice(*np.searchsorted(indices, (block.offset, block.offset + block.rows * block.columns)))
        row, column = np.divmod(indices[part] - block.offset, block.columns)
        line, along = (column, row) if lines.is_by_columns else (row, column)
        places[part] = CELL * (lines.first_cell + line * lines.cells) + along
    return places


def _lines(shapes: _Shapes, offsets: tuple[int, ...]) -> Iterator[_Lines]:
    first_cell = 0
    for block in blocks_of(shapes, offsets):
        lines = _Lines(block, first_cell, is_by_columns=1 < block.rows < block.columns)
        yield lines
        first_cell += lines.number * lines.cells


@lru_cache(maxsize=4)
def _cells(shapes: _Shapes, offsets: tuple[int, ...]) -> Cells:
    starts, strides, lengths, strided = [], [], [], []
    for lines in _lines(shapes, offsets):
        columns = lines.block.columns
        along, across = (columns, 1) if lines.is_by_columns else (1, columns)
        cuts = np.arange(0, lines.width, CELL, dtype=np.int64)
        firsts = lines.block.offset + across * np.arange(lines.number, dtype=np.int64)
        starts.append((firsts[:, np.newaxis] + along * cuts).ravel())
        strides.append(np.full(starts[-1].size, along, np.int64))
        lengths.append(np.tile(np.minimum(CELL, lines.width - cuts), lines.number))
        if along != 1:
            strided.append((lines.first_cell, lines.first_cell + starts[-1].size, along))
    return Cells(_joined(starts), _joined(strides), _joined(lengths), tuple(strided))


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts])
