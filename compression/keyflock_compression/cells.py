"""The parameters in short cells, so that what lies together in the network lies together in the bytes.

A tensor is read row by row; a row is a word of the embedding, a unit of a matrix, or a whole vector. A matrix
that is wider than it is high is read by columns, because its units are columns, and a unit that changed much
changed at many inputs. Rows longer than 128 are cut into cells, so that a position within a cell fits 7 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.layout import Block, Layout, blocks_from_shapes

#: Maximum number of values in a cell.
CELL: Final = 128

_Shapes = tuple[tuple[int, ...], ...]


class Cells(NamedTuple):
    """The indices of each cell's values in the flat vector: ``origins + strides * p``, 1 <= p <= lengths.

    The arrays have shape (cells,), int64; do not write to them.
    """

    origins: NDArray[np.int64]
    strides: NDArray[np.int64]
    lengths: NDArray[np.int64]
    #: For the tensors that are read by columns, neighbours of one stride together: their first cell, the one
    #: behind their last, and the stride.
    strided: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _TensorRows:
    """The rows of one tensor; a tensor that is wider than high is read by columns."""

    block: Block
    #: Number of the first row's first cell, counted over all tensors.
    first_cell: int
    is_by_columns: bool

    @property
    def number(self) -> int:
        """The number of rows."""
        return self.block.columns if self.is_by_columns else self.block.rows

    @property
    def width(self) -> int:
        """The number of values in a row."""
        return self.block.rows if self.is_by_columns else self.block.columns

    @property
    def cells(self) -> int:
        """The number of cells in a row."""
        return -(-self.width // CELL)


def cells_of(layout: Layout) -> Cells:
    """Return the layout's cells in the order of the streams."""
    return _cells(layout.shapes, layout.offsets)


def cell_positions(indices: NDArray[np.intp], layout: Layout) -> NDArray[np.int64]:
    """Return 128 times the cell plus the position within the cell, for each index into the flat vector.

    Args:
        indices: The indices, ascending. Shape (N,).
        layout: The layout of the vector.
    """
    positions = np.empty(indices.size, np.int64)
    for rows in _tensor_rows(layout.shapes, layout.offsets):
        block = rows.block
        part = slice(*np.searchsorted(indices, (block.offset, block.offset + block.rows * block.columns)))
        inner = indices[part] - block.offset
        row = inner // block.columns
        column = inner - row * block.columns
        number, along = (column, row) if rows.is_by_columns else (row, column)
        positions[part] = CELL * (rows.first_cell + number * rows.cells) + along
    return positions


def _tensor_rows(shapes: _Shapes, offsets: tuple[int, ...]) -> Iterator[_TensorRows]:
    first_cell = 0
    for block in blocks_from_shapes(shapes, offsets):
        rows = _TensorRows(block, first_cell, is_by_columns=1 < block.rows < block.columns)
        yield rows
        first_cell += rows.number * rows.cells


@lru_cache(maxsize=4)
def _cells(shapes: _Shapes, offsets: tuple[int, ...]) -> Cells:
    origins, strides, lengths = [], [], []
    strided: list[tuple[int, int, int]] = []
    for rows in _tensor_rows(shapes, offsets):
        columns = rows.block.columns
        along, across = (columns, 1) if rows.is_by_columns else (1, columns)
        cuts = np.arange(0, rows.width, CELL, dtype=np.int64)
        firsts = rows.block.offset + across * np.arange(rows.number, dtype=np.int64)
        origins.append((firsts[:, np.newaxis] + along * (cuts - 1)).ravel())
        strides.append(np.full(origins[-1].size, along, np.int64))
        lengths.append(np.tile(np.minimum(CELL, rows.width - cuts), rows.number))
        if along != 1:
            end_cell = rows.first_cell + origins[-1].size
            if strided and strided[-1][1:] == (rows.first_cell, along):
                strided[-1] = (strided[-1][0], end_cell, along)
            else:
                strided.append((rows.first_cell, end_cell, along))
    return Cells(_joined(origins), _joined(strides), _joined(lengths), tuple(strided))


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts])
