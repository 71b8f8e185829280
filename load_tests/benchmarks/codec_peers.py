"""Other methods of compressing a delta, written from their papers: their bits and their decoded values.

Bits are counted in each method's favour: the order-0 entropy of what is sent, as if by a perfect coder, plus
its scales; ours are real containers. Nothing here is fast, and no time of it is compared.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SCALE_BITS: Final = 32
#: Lloyd-Max centroids of the normal distribution, the positive half, by bits.
CENTROIDS: Final = {
    1: (0.7979,),
    2: (0.4528, 1.5104),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326),
}
#: Values that are rotated together; the last block is filled up with zeros.
ROTATED: Final = 8_192


class CompressedDelta(NamedTuple):
    """A compressed delta: the bits that it costs, and the values that are decoded."""

    bits: float
    values: Float32


def qsgd(delta: Float32, levels: int, rng: np.random.Generator, bucket: int = 512) -> CompressedDelta:
    """Round to stochastic levels of each bucket's norm. Alistarh et al. 2017, arXiv:1610.02132."""
    padded = np.pad(delta, (0, -delta.size % bucket)).reshape(-1, bucket)
    norms = np.linalg.norm(padded, axis=1, keepdims=True)
    scaled = np.abs(padded) / np.where(norms > 0, norms, 1) * levels
    quantized = np.floor(scaled + rng.random(scaled.shape, dtype=np.float32)) * np.sign(padded)
    values = (quantized * norms / levels).reshape(-1)[: delta.size].astype(np.float32)
    return CompressedDelta(
        _entropy_bits(quantized.reshape(-1)[: delta.size]) + SCALE_BITS * len(norms), values
    )


def terngrad(delta: Float32, rng: np.random.Generator) -> CompressedDelta:
    """Send stochastic signs, clipped to 2.5 standard deviations. Wen et al. 2017, arXiv:1705.07878."""
    bound = 2.5 * delta.std()
    clipped = np.clip(delta, -bound, bound)
    max_value = np.abs(clipped).max()
    quantized = np.sign(clipped) * (rng.random(delta.size, dtype=np.float32) < np.abs(clipped) / max_value)
    return CompressedDelta(_entropy_bits(quantized) + SCALE_BITS, (quantized * max_value).astype(np.float32))


def sparse_ternary(delta: Float32, share: float) -> CompressedDelta:
    """Send the largest values' signs times their mean. Sattler et al. 2019 (STC), arXiv:1903.02891."""
    keep_count = round(share * delta.size)
    positions = np.argpartition(np.abs(delta), -keep_count)[-keep_count:]
    values = np.zeros_like(delta)
    values[positions] = np.sign(delta[positions]) * np.abs(delta[positions]).mean()
    return CompressedDelta(_entropy_bits(np.sign(values)) + SCALE_BITS, values)


def eden(delta: Float32, bits: int, rng: np.random.Generator) -> CompressedDelta:
    """Rotate at random, then round to the normal distribution's centroids, unbiased; one bit is DRIVE.

    Vargaftik et al. 2021 and 2022, arXiv:2105.08339 and arXiv:2108.08842.
    """
    blocks = np.pad(delta, (0, -delta.size % ROTATED))
    signs = rng.choice(np.array([-1, 1], np.float32), ROTATED)
    rotated = _hadamard(blocks.reshape(-1, ROTATED) * signs)
    norms = np.linalg.norm(rotated, axis=1, keepdims=True)
    normal = rotated * np.sqrt(ROTATED) / np.where(norms > 0, norms, 1)
    half = np.array(CENTROIDS[bits], np.float32)
    nearest = np.searchsorted((half[1:] + half[:-1]) / 2, np.abs(normal))
    quantised = np.where(normal < 0, -half[nearest], half[nearest])
    products = np.sum(rotated * quantised, axis=1, keepdims=True)
    scales = norms**2 / np.where(products > 0, products, 1)
    values = (_hadamard(quantised * scales) * signs).reshape(-1)[: delta.size]
    return CompressedDelta(bits * blocks.size + SCALE_BITS * len(scales), values.astype(np.float32))


def peers() -> dict[str, Callable[[Float32, np.random.Generator], CompressedDelta]]:
    """Return the methods by name."""
    return {
        "QSGD, 1 level": lambda delta, rng: qsgd(delta, 1, rng),
        "QSGD, 16 levels": lambda delta, rng: qsgd(delta, 16, rng),
        "TernGrad": terngrad,
        "STC, 0.3 %": lambda delta, _: sparse_ternary(delta, 0.003),
        "STC, 1 %": lambda delta, _: sparse_ternary(delta, 0.01),
        "STC, 3 %": lambda delta, _: sparse_ternary(delta, 0.03),
        "DRIVE (EDEN, 1 bit)": lambda delta, rng: eden(delta, 1, rng),
        "EDEN, 2 bits": lambda delta, rng: eden(delta, 2, rng),
        "EDEN, 4 bits": lambda delta, rng: eden(delta, 4, rng),
    }


def _entropy_bits(quantized: NDArray[np.generic]) -> float:
    """Return the order-0 entropy of all values together, in bits."""
    _, counts = np.unique(quantized, return_counts=True)
    return float(-(counts * np.log2(counts / quantized.size)).sum())


def _hadamard(rows: Float32) -> Float32:
    """Return each row's orthonormal Walsh-Hadamard transform, which is its own inverse."""
    count, width = rows.shape
    half = 1
    while half < width:
        pairs = rows.reshape(count, -1, 2, half)
        rows = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
        half *= 2
    return rows.reshape(count, width) / np.float32(np.sqrt(width))
