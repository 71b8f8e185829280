"""A model as its download has it: one scale a row, one whole number a parameter.

What a phone trains from follows from these alone, so two containers of equal numbers are the same model,
however their bytes were packed. The content digest names them.
"""

import hashlib
from typing import Final, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.container import Container, parse, read_spec
from keyflock_compression.errors import LimitExceeded, MalformedContainer, WrongSpec
from keyflock_compression.family import StreamReader, checked_scales
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.spec import CodecSpec

CONTENT_DIGEST_BYTES: Final = 32
#: For a phone that has put a model together itself: fewer bytes would serve nobody.
_UNPACKED: Final = CodecSpec(codec="dense", entropy="none")


class RowWeights(NamedTuple):
    """The numbers in a container of the codec ``dense`` with 8 bits."""

    layout: bytes
    #: Shape (rows of all tensors,), float32.
    scales: Float32
    #: Shape (P,), int8.
    whole: NDArray[np.int8]

    @property
    def content_digest(self) -> bytes:
        """32 bytes that differ for every other model: SHA-256 of layout digest, scales and whole numbers."""
        digest = hashlib.sha256(self.layout)
        digest.update(self.scales.astype("<f4").tobytes())
        digest.update(self.whole.tobytes())
        return digest.digest()

    def to_container(self) -> bytes:
        """A container that ``decode_weights`` takes, its stream as it is."""
        scales = self.scales.astype("<f4").tobytes()
        return Container(_UNPACKED.to_wire(), self.layout, scales, (self.whole.tobytes(),)).to_bytes()


def read_rows(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> RowWeights:
    """The numbers in a download, whatever the bytes are.

    No layout is asked for, so nothing is said about what the numbers mean: ``decode_weights`` checks that.

    Raises:
        WrongSpec: the container is of another codec, or has not a byte a parameter.
        CodecError: the bytes are not a container of whole numbers.
    """
    container = parse(data, limits)
    spec = read_spec(container)
    if spec.codec != "dense" or spec.bits not in {None, 8}:
        raise WrongSpec(f"the container is of {spec.codec}, bits {spec.bits}; a download is dense with 8")
    streams = StreamReader(spec, container.streams, limits)
    streams.expect(1)
    stream = container.streams[0]
    try:
        size = len(stream) if spec.entropy == "none" else zstandard.frame_content_size(stream)
    except zstandard.ZstdError:
        raise MalformedContainer("a stream is not a zstd frame") from None
    if size < 0:
        raise MalformedContainer("a zstd frame does not state its size")
    if size > limits.max_parameters:
        raise LimitExceeded(
            f"the container states {size} parameters; at most {limits.max_parameters} are taken"
        )
    scales = checked_scales(container.scales, None)
    return RowWeights(container.layout, scales, np.frombuffer(streams.read(0, size), np.int8))
