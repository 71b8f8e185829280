"""Packing of numbers of a few bits each; the first one takes the lowest bits of the first byte."""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.codec_interface import StreamReader
from keyflock_compression.errors import MalformedContainer

_Unsigned = TypeVar("_Unsigned", np.uint8, np.uint16)


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` numbers of ``bits`` bits take."""
    return -(-count * bits // 8)


def pack_bits(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Pack the codes into a stream; the bits behind the last code are zero.

    Args:
        codes: Each below ``2**bits``. Shape (N,).
        bits: 1, 2, 4 or 8.
    """
    if bits == 8:
        return codes.tobytes()
    each = 8 // bits
    bytes_ = np.zeros((packed_bytes(codes.size, bits), each), np.uint8)
    bytes_.reshape(-1)[: codes.size] = codes
    bytes_ <<= np.arange(0, 8, bits, dtype=np.uint8)
    joined: NDArray[np.uint8] = np.bitwise_or.reduce(bytes_, axis=1)
    return joined.tobytes()


def unpack_bits(streams: StreamReader, index: int, count: int, bits: int) -> NDArray[np.uint8]:
    """Unpack the ``count`` numbers in stream ``index``. Shape (count,).

    Raises:
        MalformedContainer: the stream has another size, or a bit behind the last number is set.
    """
    data = streams.read(index, packed_bytes(count, bits))
    over = count * bits % 8
    if over and data[-1] >> over:
        raise MalformedContainer(f"stream {index} has bits behind its last number")
    packed = np.frombuffer(data, np.uint8)
    if bits == 8:
        return packed
    codes: NDArray[np.uint8] = np.take(_codes_in(bits), packed, axis=0)
    return codes.reshape(-1)[:count]


def to_signed(codes: NDArray[_Unsigned], bits: int) -> NDArray[np.signedinteger]:
    """Read codes as two's complement of ``bits`` bits, in the signed type of the same width.

    Raises:
        MalformedContainer: a code is the lowest number, which has no negative and which no encoder writes.
    """
    lowest = 1 << (bits - 1)
    if (codes == lowest).any():
        raise MalformedContainer(f"{-lowest} is no number of {bits} bits here")
    # Shift the sign bit up to where the type has it, and back: a right shift of a signed number keeps it.
    empty = 8 * codes.itemsize - bits
    signed = (codes << codes.dtype.type(empty)).view(f"i{codes.itemsize}")
    signed >>= signed.dtype.type(empty)
    return signed


@lru_cache(maxsize=4)
def _codes_in(bits: int) -> NDArray[np.uint8]:
    """Return the codes in each byte, as a look-up is faster than shifting. Shape (256, 8 / bits)."""
    table = np.arange(256, dtype=np.uint8)[:, np.newaxis] >> np.arange(0, 8, bits, dtype=np.uint8)
    return (table & np.uint8((1 << bits) - 1)).astype(np.uint8)
