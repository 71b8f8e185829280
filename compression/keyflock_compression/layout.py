"""The layout of the parameters in the flat vector, as far as compression needs to know it.

It is a structural type: any object with these attributes is a layout, so that this package and the models
package do not import each other.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple, Protocol


class Layout(Protocol):
    """The names, shapes and offsets of the tensors in one flat float32 vector of ``size`` values."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name per tensor."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """One shape per tensor; the values are row-major."""
        ...

    @property
    def offsets(self) -> tuple[int, ...]:
        """The index of each tensor's first value."""
        ...

    @property
    def size(self) -> int:
        """The number of values in the vector."""
        ...

    @property
    def digest(self) -> bytes:
        """16 bytes that identify the layout."""
        ...


class Block(NamedTuple):
    """One tensor, seen as a matrix; a vector is one row."""

    offset: int
    rows: int
    columns: int


def blocks(layout: Layout) -> Iterator[Block]:
    """Yield each tensor as a matrix whose columns are its last axis: a vocabulary row is one row."""
    return blocks_from_shapes(layout.shapes, layout.offsets)


def blocks_from_shapes(shapes: tuple[tuple[int, ...], ...], offsets: tuple[int, ...]) -> Iterator[Block]:
    """Yield the same from a layout's shapes and offsets, which can be the key of a cache."""
    for shape, offset in zip(shapes, offsets, strict=True):
        columns = shape[-1] if shape else 1
        yield Block(offset, prod(shape[:-1]), columns)


def row_count(layout: Layout) -> int:
    """Return the number of rows in all tensors together."""
    return sum(block.rows for block in blocks(layout))
