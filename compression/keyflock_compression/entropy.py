"""The entropy stage: zstd frames that state their size, decoded in bounded memory.

``zstandard`` ignores ``max_output_size`` when a frame's header states a size, so a frame of 6 KB can inflate
to 200 MB. Therefore the header is read first and must state exactly the size that the caller expects.

Each thread has a decompressor of its own, which it keeps: creating one for a report takes longer than
decoding its frames, because the new one's memory is cold.

Source: RFC 8878; python-zstandard, "Decompressor", max_output_size.
"""

import threading
from typing import Final

import zstandard

from keyflock_compression.errors import LimitExceeded, MalformedContainer
from keyflock_compression.limits import DecodeLimits

#: The frame of no bytes; a codec whose stream is mostly empty has one in each container.
_EMPTY_FRAME: Final = zstandard.ZstdCompressor(write_content_size=True, write_checksum=False).compress(b"")


class _Decompressor(threading.local):
    """The calling thread's decompressor, which zstandard resets before each frame."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_DECOMPRESSOR: Final = _Decompressor()


def compress(data: bytes, level: int) -> bytes:
    """Compress data to one zstd frame that states its content size.

    The frame has no checksum: the container's digest serves for that.
    """
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False).compress(data)


def max_frame_bytes(size: int) -> int:
    """Return the maximum length of a frame that holds ``size`` bytes, at any level (ZSTD_COMPRESSBOUND)."""
    small = 131_072
    return size + (size >> 8) + (max(0, small - size) >> 11)


def decompress(frame: bytes, expected_bytes: int, limits: DecodeLimits) -> bytes:
    """Decompress one frame whose content must be exactly ``expected_bytes`` long.

    Args:
        frame: The frame, untrusted.
        expected_bytes: The content size that the caller expects.
        limits: The limits on what decoding may take.
    Raises:
        LimitExceeded: the frame wants a larger window than allowed.
        MalformedContainer: it is not one whole frame, it asks for a dictionary, or it states another size.
    """
    if not expected_bytes and frame == _EMPTY_FRAME:
        return b""
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError:
        raise MalformedContainer("a stream is not a zstd frame") from None
    if header.content_size != expected_bytes:
        raise MalformedContainer(f"a zstd frame states another size than the {expected_bytes} bytes expected")
    if header.window_size > max(limits.max_window_bytes, expected_bytes):
        raise LimitExceeded(f"a zstd frame asks for a window of {header.window_size} bytes")
    if header.dict_id != 0:
        raise MalformedContainer("a zstd frame asks for a dictionary")
    try:
        data: bytes = _DECOMPRESSOR.zstd.decompress(
            frame, max_output_size=expected_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError:
        raise MalformedContainer("a zstd frame does not decode, or bytes follow it") from None
    if len(data) != expected_bytes:
        raise MalformedContainer(f"a zstd frame holds {len(data)} bytes instead of {expected_bytes}")
    return data
