"""The codec that rotates the delta at random and sends each value in 1, 2 or 4 bits.

After the rotation every value is about normal whatever the delta was, so that one small table of the normal
distribution's levels fits all, and a block's scale is chosen such that the decoded block has exactly the
block's own length along it. It is for deltas that are dense, late or noised, and where sums are taken unseen:
on keyboards' early deltas the rotation destroys the sparsity that makes them small (docs/decisions/0029).

Levels are whole numbers of at most 2,047, so that every sum of 8,192 of them is exact in float32, and a
decoder may add them in any order.

Source: Vargaftik et al. 2022 (EDEN), arXiv:2108.08842; levels of Lloyd 1982 and Max 1960 for the normal
distribution.
"""

from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import ContainerSizes, Encoded, StreamReader
from keyflock_compression.errors import NonFinite
from keyflock_compression.hadamard import block_lengths, hadamard_transform, random_signs
from keyflock_compression.layout import Layout
from keyflock_compression.packing import pack_bits, packed_bytes, unpack_bits
from keyflock_compression.spec import RotatedSpec
from keyflock_compression.splitmix import SEED_BYTES
from keyflock_compression.update import DecodedUpdate, DenseUpdate

_Float = TypeVar("_Float", np.float32, np.float64)

#: Units of a level per standard deviation.
_UNIT: Final = 700
#: The positive levels by bits, ascending; the negative ones mirror them.
LEVELS: Final = MappingProxyType({1: (559,), 2: (317, 1057), 4: (90, 272, 460, 660, 879, 1133, 1448, 1913)})


class RotatedCodec:
    """The codec writes a scale per block, and two streams: the seed, and the levels' numbers.

    Guarantees:
        The decoded vector's inner product with the delta equals the delta's with itself, block by block, up
        to float32 rounding. Where a block's energy lies on more than a few values, its NMSE is about 0.57
        (1 bit), 0.13 (2) or 0.0096 (4), and over seeds the error's mean is about zero.
    Edge cases:
        a block of zeros -> scale 0
    """

    def sizes(self, layout: Layout, spec: RotatedSpec) -> ContainerSizes:
        """Return one scale per block, and ``bits`` per value with the padding of the last block."""
        lengths = block_lengths(layout.size)
        return ContainerSizes(len(lengths), (SEED_BYTES, packed_bytes(sum(lengths), spec.bits)))

    def encode(self, delta: Float32, layout: Layout, spec: RotatedSpec, seed: int) -> Encoded:
        """Encode each block's rotation, over its length, as the nearest levels."""
        lengths = block_lengths(layout.size)
        padded = np.zeros(sum(lengths), np.float32)
        padded[: delta.size] = delta
        # Relative to the block's largest value: lengths of very small and very large ones leave float32.
        largest = _by_block(np.maximum, np.abs(padded), lengths)
        padded /= np.repeat(np.where(largest > 0, largest, np.float32(1)), lengths)
        energies = _by_block(np.add, np.square(padded, dtype=np.float64), lengths)
        turned = hadamard_transform(padded * random_signs(seed, padded.size))
        units = np.repeat(_UNIT / np.sqrt(np.where(energies > 0, energies, 1)), lengths)
        table = _table(spec.bits)
        codes = np.searchsorted((table[1:] + table[:-1]) / 2, turned * units.astype(np.float32), "right")
        products = _by_block(np.add, turned.astype(np.float64) * table[codes], lengths)
        scales = largest.astype(np.float64) * energies / np.where(products > 0, products, 1)
        stream = pack_bits(codes.astype(np.uint8), spec.bits)
        return Encoded(scales.astype(np.float32), (seed.to_bytes(SEED_BYTES, "little"), stream))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: RotatedSpec
    ) -> DecodedUpdate:
        """Decode the levels, rotated back, times each block's scale."""
        lengths = block_lengths(layout.size)
        padded = sum(lengths)
        seed = streams.read_seed(0)
        codes = unpack_bits(streams, 1, padded, spec.bits)
        values = hadamard_transform(_table(spec.bits)[codes])
        with np.errstate(over="ignore"):
            values *= np.repeat(scales, lengths)
        values = (values * random_signs(seed, padded))[: layout.size]
        # Only a scale that no encoder writes gets there; smaller ones make a check of every value needless.
        if scales.max(initial=0.0) > np.finfo(np.float32).max / 2**24 and not np.isfinite(values).all():
            raise NonFinite("a value times its block's scale is infinite")
        return DenseUpdate(values)


def _table(bits: int) -> Float32:
    """Return all levels, ascending. Shape (2**bits,)."""
    half = np.array(LEVELS[bits], np.float32)
    return np.concatenate((-half[::-1], half))


def _by_block(reduced: np.ufunc, values: NDArray[_Float], lengths: tuple[int, ...]) -> NDArray[_Float]:
    """Reduce each block's values to their sum or maximum. Shape (blocks,)."""
    if not lengths:
        return values[:0]
    reductions: NDArray[_Float] = reduced.reduceat(values, np.cumsum((0, *lengths[:-1])))
    return reductions
