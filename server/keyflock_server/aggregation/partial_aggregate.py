"""The partial aggregate: a running weighted sum of deltas, and a coarse histogram of their norms.

Nothing else of the deltas is stored. Memory is one vector, whatever the number of reports. A flush writes the
bytes to the blob store, with a checksum that finds damage: whoever may write blobs may write a checksum too.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keyflock_compression import DecodedUpdate
from keyflock_server.aggregation.norm_histogram import BINS, NormHistogram

#: The prefix of the tensors with counts of norms; the name of the codec table follows.
_NORMS: Final = "norms."
_CHECKSUM: Final = "crc32"
#: What earlier releases wrote in its place, which took five times as long.
_DIGEST: Final = "digest"


class CorruptedAggregate(ValueError):
    """Fault of the store: the bytes are not the partial aggregate that was written."""


class PartialAggregate:
    """A weighted sum, its weight, its number of reports, and the histogram of their norms.

    Args:
        size: Number of parameters, P.
    """

    def __init__(self, size: int) -> None:
        self.sum: NDArray[np.float32] = np.zeros(size, np.float32)
        self.weight = 0.0
        self.count = 0
        self.norms = NormHistogram()

    def add(self, update: DecodedUpdate, weight: float, scale: float = 1.0) -> None:
        """Add one report's delta in place. Its norm is at most ``norm_scale.MAX_NORM``, ``weight`` > 0.

        ``scale`` multiplies the delta but not its weight: a clipped report has its full weight in the mean.
        """
        update.add_to(self.sum, weight * scale)
        self.weight += weight
        self.count += 1

    def merged(self, other: Self) -> Self:
        """Return a new aggregate of both; neither is changed."""
        result = type(self)(0)
        result.sum = self.sum + other.sum
        result.weight = self.weight + other.weight
        result.count = self.count + other.count
        result.norms = self.norms.merged(other.norms)
        return result

    def mean(self) -> NDArray[np.float32]:
        """Return the weighted mean delta, shape (P,), float32: the pseudo-gradient of the server's step.

        Raises:
            ValueError: nothing was added.
        """
        if self.weight <= 0.0:
            raise ValueError("an empty aggregate has no mean")
        result: NDArray[np.float32] = self.sum / np.float32(self.weight)
        return result

    def to_bytes(self) -> bytes:
        """Return a safetensors file: the sum, its weight and count, counts of norms, and a checksum."""
        tensors: dict[str, NDArray[Any]] = {
            "sum": self.sum,
            "weight": np.array([self.weight], np.float64),
            "count": np.array([self.count], np.int64),
        }
        tensors |= {f"{_NORMS}{table}": counts for table, counts in self.norms.counts.items()}
        return save(tensors | {_CHECKSUM: _checksum(tensors)})

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Self:
        """Return the aggregate that ``to_bytes`` wrote.

        Earlier releases wrote a digest instead of the checksum, and the first of them no counts of norms.

        Raises:
            CorruptedAggregate: the bytes are damaged, or have another number of parameters than ``size``.
        """
        try:
            tensors: dict[str, NDArray[Any]] = load(data)
            is_earlier = _CHECKSUM not in tensors
            found_checksum = tensors.pop(_DIGEST if is_earlier else _CHECKSUM)
            vector, weight, count = tensors["sum"], tensors["weight"], tensors["count"]
        except (SafetensorError, KeyError) as error:
            raise CorruptedAggregate(f"not a partial aggregate: {error}") from None
        expected = [("float32", (size,)), ("float64", (1,)), ("int64", (1,))]
        found = [(str(tensor.dtype), tensor.shape) for tensor in (vector, weight, count)]
        if found != expected:
            raise CorruptedAggregate(f"sum, weight and count are {found}, not {expected}")
        norms = {
            name.removeprefix(_NORMS): counts for name, counts in tensors.items() if name.startswith(_NORMS)
        }
        if any(counts.dtype != np.int64 or counts.shape != (BINS,) for counts in norms.values()):
            raise CorruptedAggregate("the counts of norms have other bins")
        if not np.array_equal(found_checksum, _digest(tensors) if is_earlier else _checksum(tensors)):
            raise CorruptedAggregate("the checksum does not match")
        result = cls(0)
        result.sum, result.weight, result.count = vector, float(weight[0]), int(count[0])
        result.norms = NormHistogram(norms)
        return result


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint32]:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(np.ascontiguousarray(tensors[name]).data, zlib.crc32(name.encode(), checksum))
    return np.array([checksum], np.uint32)


def _digest(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        hasher.update(np.ascontiguousarray(tensors[name]).data)
    return np.frombuffer(hasher.digest(), np.uint8)
