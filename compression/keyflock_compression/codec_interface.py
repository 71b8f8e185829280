"""The interface of every codec, and the reading of scales and streams that the codecs share."""

from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.errors import MalformedContainer, NonFinite, WrongSpec
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.spec import CodecSpec
from keyflock_compression.splitmix import SEED_BYTES
from keyflock_compression.update import DecodedUpdate

_LITTLE_ENDIAN: Final = np.dtype("<f4")
_INFINITY_BITS: Final = 0x7F80_0000
_Spec_contra = TypeVar("_Spec_contra", bound=CodecSpec, contravariant=True)


class Encoded(NamedTuple):
    """What a codec puts into the container: its scales, and its streams before the entropy stage."""

    scales: Float32
    streams: tuple[bytes, ...]


class ContainerSizes(NamedTuple):
    """The sizes in a container that are known before its delta is."""

    #: Number of float32 values in ``scales``.
    scales: int
    #: Bytes in each stream before the entropy stage; None where they depend on the delta.
    streams: tuple[int | None, ...]


class ContainerLength(NamedTuple):
    """The bounds on the length of a container, in bytes."""

    #: No container is shorter.
    min_bytes: int
    #: No container is longer; None where that depends on the delta.
    max_bytes: int | None


class StreamReader:
    """A reader that decodes the entropy stage of a container's streams and checks their sizes.

    Args:
        spec: The spec, which names the entropy stage.
        streams: The streams as they are in the container.
        limits: The limits on what decoding may take.
        seed: The seed of the assignment, which a stream with a seed must hold; None accepts any.
    """

    def __init__(
        self, spec: CodecSpec, streams: tuple[bytes, ...], limits: DecodeLimits, seed: int | None = None
    ) -> None:
        self._spec = spec
        self._streams = streams
        self._limits = limits
        self._seed = seed

    def require_count(self, count: int) -> None:
        """Raise MalformedContainer unless there are ``count`` streams."""
        if len(self._streams) != count:
            raise MalformedContainer(f"{self._spec.codec} has {count} streams, not {len(self._streams)}")

    def read(self, index: int, expected_bytes: int) -> bytes:
        """Return stream ``index``, decoded to exactly ``expected_bytes``; raise a CodecError otherwise."""
        stream = self._streams[index]
        if self._spec.entropy == "none":
            if len(stream) != expected_bytes:
                raise MalformedContainer(f"stream {index} has {len(stream)} bytes, not {expected_bytes}")
            return stream
        return entropy.decompress(stream, expected_bytes, self._limits)

    def read_seed(self, index: int) -> int:
        """Return the seed in stream ``index``; raise WrongSpec where it is not that of the assignment."""
        seed = int.from_bytes(self.read(index, SEED_BYTES), "little")
        if self._seed is not None and seed != self._seed:
            raise WrongSpec("the container was encoded with another seed than the one that was assigned")
        return seed


class Codec(Protocol[_Spec_contra]):
    """A codec encodes a vector in few bytes; it is pure and deterministic."""

    def sizes(self, layout: Layout, spec: _Spec_contra) -> ContainerSizes:
        """Return the sizes of a container; raise SpecError where the layout has no such rows."""
        ...

    def encode(self, delta: Float32, layout: Layout, spec: _Spec_contra, seed: int) -> Encoded:
        """Encode the vector as scales and streams."""
        ...

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: _Spec_contra
    ) -> DecodedUpdate:
        """Decode the update; raise a CodecError on anything that ``encode`` would not have written."""
        ...


def read_scales(scales: bytes, expected: int | None) -> Float32:
    """Read the scales as numbers.

    Raises:
        MalformedContainer: there are not ``expected`` of them, or one is negative (minus zero is).
        NonFinite: one is NaN or infinite.
    """
    if len(scales) % 4 or (expected is not None and len(scales) != 4 * expected):
        raise MalformedContainer(f"{len(scales)} bytes of scales do not fit this layout")
    values: NDArray[np.float32] = np.frombuffer(scales, _LITTLE_ENDIAN).astype(np.float32)
    # One look at the bits: only infinity, NaN and what has the sign are at or above infinity's.
    if values.size and values.view(np.uint32).max() >= _INFINITY_BITS:
        if not np.isfinite(values).all():
            raise NonFinite("a scale is NaN or infinite")
        raise MalformedContainer("a scale is negative")
    return values


def refuse_values_without_scale(scale: np.float32, count: int) -> None:
    """Refuse ``count`` numbers other than zero whose scale is 0: all mean zero, and no encoder writes them.

    Raises:
        MalformedContainer: there is such a number.
    """
    if count and scale == 0.0:
        raise MalformedContainer("a scale is 0, and numbers that it scales are not")
