"""A decoded delta, in the form that adds fastest."""

from abc import ABC, abstractmethod
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32

#: Above this share of non-zero values a dense add is faster than a scatter.
SPARSE_SHARE: Final = 0.125


class DecodedUpdate(ABC):
    """A vector of ``size`` float32 values: ready to be summed, and nothing else is kept of it."""

    size: int

    @property
    @abstractmethod
    def l2_norm(self) -> float:
        """The Euclidean norm, in units of the parameters."""

    @abstractmethod
    def add_to(self, accumulator: Float32, weight: float) -> None:
        """``accumulator += weight * self``, in place.

        Args:
            accumulator: Shape (size,), float32.
            weight: The client's weight.
        """

    @abstractmethod
    def dense(self) -> Float32:
        """The whole vector, shape (size,), float32; a fresh copy."""

    def entries(self) -> tuple[NDArray[np.intp] | None, Float32]:
        """Where values may be other than zero (None: everywhere), each place once; and the values there.

        For reading only: they may be the update's own.
        """
        return None, self.dense()

    def with_values(self, values: Float32) -> "DecodedUpdate":
        """Other values at the places of ``entries``."""
        return DenseUpdate(values)


@final
class DenseUpdate(DecodedUpdate):
    """All values.

    Args:
        values: Shape (P,), float32.
    """

    def __init__(self, values: Float32) -> None:
        self.size = values.size
        self._values = values

    @property
    def l2_norm(self) -> float:
        """The Euclidean norm."""
        return _norm(self._values)

    def add_to(self, accumulator: Float32, weight: float) -> None:
        """``accumulator += weight * self``."""
        if weight == 1.0:
            accumulator += self._values
        else:
            accumulator += np.float32(weight) * self._values

    def dense(self) -> Float32:
        """A copy of the values."""
        return self._values.copy()

    def entries(self) -> tuple[None, Float32]:
        """All values."""
        return None, self._values


@final
class SparseUpdate(DecodedUpdate):
    """The values that are not zero.

    Args:
        size: P.
        indices: Where they are, each once. Shape (N,).
        values: What they are. Shape (N,), float32.
    """

    def __init__(self, size: int, indices: NDArray[np.intp], values: Float32) -> None:
        self.size = size
        self._indices = indices
        self._values = values

    @property
    def l2_norm(self) -> float:
        """The Euclidean norm."""
        return _norm(self._values)

    def add_to(self, accumulator: Float32, weight: float) -> None:
        """``accumulator += weight * self``, touching only what is not zero."""
        # One pass, where ``+=`` would gather, add and scatter: 46 against 80 microseconds for 28,000 values.
        np.add.at(accumulator, self._indices, np.float32(weight) * self._values)

    def dense(self) -> Float32:
        """The vector with its zeros."""
        vector = np.zeros(self.size, np.float32)
        vector[self._indices] = self._values
        return vector

    def entries(self) -> tuple[NDArray[np.intp], Float32]:
        """What is not zero."""
        return self._indices, self._values

    def with_values(self, values: Float32) -> DecodedUpdate:
        """Other values at the same places."""
        return SparseUpdate(self.size, self._indices, values)


def _norm(values: Float32) -> float:
    """The Euclidean norm; infinite where float32 cannot say it, for whoever bounds norms to refuse."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.dot(values, values)))
