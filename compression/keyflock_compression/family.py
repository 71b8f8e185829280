"""What every codec is, and the arithmetic on streams that they share."""

from typing import NamedTuple, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import DecodedUpdate


class Encoded(NamedTuple):
    """What a codec puts into the container: scales, and streams before the entropy stage."""

    scales: Float32
    streams: tuple[bytes, ...]


class StreamReader:
    """A container's streams through the entropy stage, each with the size it must have.

    Args:
        spec: Says which entropy stage.
        streams: As they are in the container.
        limits: What decoding may take.
    """

    def __init__(self, spec: CodecSpec, streams: tuple[bytes, ...], limits: DecodeLimits) -> None:
        self._spec = spec
        self._streams = streams
        self._limits = limits
        self._decompressor = zstandard.ZstdDecompressor()

    def expect(self, count: int) -> None:
        """Raises MalformedContainer unless there are ``count`` streams."""
        if len(self._streams) != count:
            raise MalformedContainer(f"{self._spec.codec} has {count} streams, not {len(self._streams)}")

    def read(self, index: int, expected_bytes: int) -> bytes:
        """Stream ``index``, decoded to exactly ``expected_bytes``; raises a CodecError otherwise."""
        stream = self._streams[index]
        if self._spec.entropy == "none":
            if len(stream) != expected_bytes:
                raise MalformedContainer(f"stream {index} has {len(stream)} bytes, not {expected_bytes}")
            return stream
        return entropy.decompress(stream, expected_bytes, self._limits, self._decompressor)


class Codec(Protocol):
    """One way to make few bytes of a vector. Pure and deterministic."""

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The vector's scales and streams."""
        ...

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """The update; raises a CodecError on anything that ``encode`` would not have written."""
        ...


def checked_scales(scales: bytes, expected: int | None) -> Float32:
    """The scales as numbers.

    Raises:
        MalformedContainer: another number of them than ``expected``, or a negative one.
        NonFinite: NaN or infinity among them.
    """
    if len(scales) % 4 or (expected is not None and len(scales) != 4 * expected):
        raise MalformedContainer(f"{len(scales)} bytes of scales do not fit this layout")
    values: NDArray[np.float32] = np.frombuffer(scales, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise NonFinite("a scale is NaN or infinite")
    if (values < 0).any():
        raise MalformedContainer("a scale is negative")
    return values
