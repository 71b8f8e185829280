"""How the parameters lie in the flat vector, as far as compression needs to know.

A structural type: whatever has these attributes is a layout, so that this package and the model's know
nothing of each other.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple, Protocol


class Layout(Protocol):
    """Names, shapes and offsets of the tensors in one flat float32 vector of ``size`` values."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name a tensor."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """One shape a tensor, row-major."""
        ...

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index of each tensor's first value."""
        ...

    @property
    def size(self) -> int:
        """Values in all."""
        ...

    @property
    def digest(self) -> bytes:
        """16 bytes that differ for every other layout."""
        ...


class Block(NamedTuple):
    """One tensor as a matrix; a vector is one row."""

    offset: int
    rows: int
    columns: int


def blocks(layout: Layout) -> Iterator[Block]:
    """Each tensor as rows, the last axis as columns: a vocabulary row is one row."""
    return blocks_of(layout.shapes, layout.offsets)


def blocks_of(shapes: tuple[tuple[int, ...], ...], offsets: tuple[int, ...]) -> Iterator[Block]:
    """The same of a layout's shapes and offsets, which can be a cache's key."""
    for shape, offset in zip(shapes, offsets, strict=True):
        columns = shape[-1] if shape else 1
        yield Block(offset, prod(shape[:-1]), columns)


def row_count(layout: Layout) -> int:
    """Rows of all tensors together."""
    return sum(block.rows for block in blocks(layout))
