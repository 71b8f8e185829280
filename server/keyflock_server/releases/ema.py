"""The exponential moving average of a population's versions, which keyboards may serve instead of the newest.

Each version depends on one cohort; their average moves less and is, as a rule, the better model. It is only
served: rounds train from the newest version, and the average never enters a step.

With decay d, weights w_0, w_1, .. and the bias corrected (Kingma and Ba), the average after w_n is

    e_n = Σ d^(n-i) w_i / Σ d^(n-i)        so e_0 = w_0, and a constant w is its own average

computed as e_n = e_(n-1) + a_n (w_n - e_(n-1)),  a_n = (1-d) / c_n,  c_n = d c_(n-1) + (1-d),  c_(-1) = 0.

w_0 is the version that the first round with an average started from.

Source: Polyak and Juditsky 1992; Kingma and Ba 2015, arXiv:1412.6980, section 3 (the correction).
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save


class CorruptedAverage(ValueError):
    """Fault of the store: the bytes are not the average that was written."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightAverage:
    """The average of the versions so far."""

    #: The average with its bias corrected, which is served. Shape (P,), float32.
    mean: NDArray[np.float32]
    #: c_n: how much of the uncorrected average is data; tends to 1.
    correction: float

    @classmethod
    def of(cls, weights: NDArray[np.float32], decay: float) -> Self:
        """Return the average of one version, which is that version."""
        return cls(weights.astype(np.float32), 1.0 - decay)

    def after(self, weights: NDArray[np.float32], decay: float) -> "WeightAverage":
        """Return the average with one more version in it; this one is not changed.

        Args:
            weights: The new version's weights, shape (P,), float32.
            decay: The factor of earlier versions, in [0, 1). It may differ from the last.
        Guarantees:
            Each number of the result lies between the average's and the weights', up to float32 rounding.
        """
        correction = decay * self.correction + (1.0 - decay)
        share = np.float32((1.0 - decay) / correction)
        return WeightAverage(self.mean + share * (weights - self.mean), correction)

    def to_bytes(self) -> bytes:
        """Return a safetensors file with the mean, the correction, and a digest of them."""
        tensors: dict[str, NDArray[Any]] = {
            "mean": self.mean,
            "correction": np.array([self.correction], np.float64),
        }
        return save(tensors | {"digest": _digest(tensors)})

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Self:
        """Return the average that ``to_bytes`` wrote.

        Raises:
            CorruptedAverage: the bytes are damaged, or have another number of parameters than ``size``.
        """
        try:
            tensors: dict[str, NDArray[Any]] = load(data)
            digest = tensors.pop("digest")
            mean, correction = tensors["mean"], tensors["correction"]
        except (SafetensorError, KeyError) as error:
            raise CorruptedAverage(f"not an average of weights: {error}") from None
        if mean.shape != (size,) or mean.dtype != np.float32 or correction.shape != (1,):
            raise CorruptedAverage(f"an average of {mean.shape} numbers, not of {size}")
        if not np.array_equal(digest, _digest(tensors)):
            raise CorruptedAverage("the digest does not match")
        return cls(mean, float(correction[0]))


def _digest(tensors: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        hasher.update(np.ascontiguousarray(tensors[name]).data)
    return np.frombuffer(hasher.digest(), np.uint8)
