"""What every codec is, and the arithmetic on streams that they share."""

from typing import NamedTuple, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.errors import MalformedContainer, NonFinite, WrongSpec
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.spec import CodecSpec
from keyflock_compression.splitmix import SEED_BYTES
from keyflock_compression.update import DecodedUpdate


class Encoded(NamedTuple):
    """What a codec puts into the container: scales, and streams before the entropy stage."""

    scales: Float32
    streams: tuple[bytes, ...]


class Sizes(NamedTuple):
    """What is known of a container before its delta is."""

    #: float32 values in ``scales``.
    scales: int
    #: Bytes of each stream before the entropy stage; None where the delta decides.
    streams: tuple[int | None, ...]


class Length(NamedTuple):
    """How long a container can be, in bytes."""

    #: None is shorter.
    least: int
    #: None is longer; None where the delta decides.
    most: int | None


class StreamReader:
    """A container's streams through the entropy stage, each with the size it must have.

    Args:
        spec: Says which entropy stage.
        streams: As they are in the container.
        limits: What decoding may take.
        seed: The assignment's, which a stream with a seed must have; None takes any.
    """

    def __init__(
        self, spec: CodecSpec, streams: tuple[bytes, ...], limits: DecodeLimits, seed: int | None = None
    ) -> None:
        self._spec = spec
        self._streams = streams
        self._limits = limits
        self._seed = seed
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

    def read_seed(self, index: int) -> int:
        """The seed in stream ``index``; raises WrongSpec where it is not the assignment's."""
        seed = int.from_bytes(self.read(index, SEED_BYTES), "little")
        if self._seed is not None and seed != self._seed:
            raise WrongSpec("the container was encoded with another seed than the one that was assigned")
        return seed


class Codec(Protocol):
    """One way to make few bytes of a vector. Pure and deterministic."""

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """How many scales and streams, and how long; raises SpecError where the layout has no such rows."""
        ...

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
