"""Numbers of a few bits each, side by side: the first in the lowest bits of the first byte."""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.errors import MalformedContainer
from keyflock_compression.family import StreamReader

_Unsigned = TypeVar("_Unsigned", np.uint8, np.uint16)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of so many numbers of so many bits."""
    return -(-count * bits // 8)


def packed(codes: NDArray[np.uint8], bits: int) -> bytes:
    """The stream of ``codes``; the bits behind the last one are zero.

    Args:
        codes: Each below ``2**bits``. Shape (N,).
        bits: 1, 2, 4 or 8.
    """
    each = 8 // bits
    bytes_ = np.zeros((packed_bytes(codes.size, bits), each), np.uint8)
    bytes_.reshape(-1)[: codes.size] = codes
    bytes_ <<= np.arange(0, 8, bits, dtype=np.uint8)
    joined: NDArray[np.uint8] = np.bitwise_or.reduce(bytes_, axis=1)
    return joined.tobytes()


def unpacked(streams: StreamReader, index: int, count: int, bits: int) -> NDArray[np.uint8]:
    """The ``count`` numbers in stream ``index``. Shape (count,).

    Raises:
        MalformedContainer: another size, or a bit behind the last number.
    """
    data = streams.read(index, packed_bytes(count, bits))
    over = count * bits % 8
    if over and data[-1] >> over:
        raise MalformedContainer(f"stream {index} has bits behind its last number")
    codes: NDArray[np.uint8] = np.take(_codes_in(bits), np.frombuffer(data, np.uint8), axis=0)
    return codes.reshape(-1)[:count]


def as_signed(codes: NDArray[_Unsigned], bits: int) -> NDArray[np.signedinteger]:
    """Two's complement of ``bits`` bits, in the signed type of the same width.

    Raises:
        MalformedContainer: the lowest number, whose negative there is not; no encoder writes it.
    """
    lowest = 1 << (bits - 1)
    if (codes == lowest).any():
        raise MalformedContainer(f"{-lowest} is no number of {bits} bits here")
    # The sign bit pushed up to where the type has it, and back: a shift of a signed number keeps it.
    empty = 8 * codes.itemsize - bits
    signed = (codes << codes.dtype.type(empty)).view(f"i{codes.itemsize}")
    signed >>= signed.dtype.type(empty)
    return signed


@lru_cache(maxsize=4)
def _codes_in(bits: int) -> NDArray[np.uint8]:
    """What each byte holds: looking it up is quicker than shifting. Shape (256, 8 / bits)."""
    table = np.arange(256, dtype=np.uint8)[:, np.newaxis] >> np.arange(0, 8, bits, dtype=np.uint8)
    return (table & np.uint8((1 << bits) - 1)).astype(np.uint8)
