"""A model as a download holds it: one scale per row and one quantized number per parameter.

The weights that a phone trains from follow from these alone, so two containers with equal numbers are the
same model, however their bytes were packed. The content digest names that model.
"""

import hashlib
from typing import Final, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import StreamReader, read_scales
from keyflock_compression.container import Container, parse, read_spec
from keyflock_compression.errors import LimitExceeded, MalformedContainer, WrongSpec
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.spec import DenseSpec

CONTENT_DIGEST_BYTES: Final = 32
#: A phone that has assembled a model sends these bytes nowhere, so it does not compress them.
_UNPACKED: Final = DenseSpec(entropy="none")


class RowWeights(NamedTuple):
    """The numbers in a container of the codec ``dense`` with 8 bits per value."""

    layout: bytes
    #: Shape (rows of all tensors,), float32.
    scales: Float32
    #: Shape (P,), int8.
    quantized: NDArray[np.int8]

    @property
    def content_digest(self) -> bytes:
        """The SHA-256 digest of layout digest, scales and quantized numbers, which identifies the model."""
        digest = hashlib.sha256(self.layout)
        digest.update(self.scales.astype("<f4").tobytes())
        digest.update(self.quantized.tobytes())
        return digest.digest()

    def to_container(self) -> bytes:
        """Return an uncompressed container that ``decode_weights`` takes."""
        scales = self.scales.astype("<f4").tobytes()
        return Container(_UNPACKED.to_wire(), self.layout, scales, (self.quantized.tobytes(),)).to_bytes()


def read_row_weights(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> RowWeights:
    """Read the numbers of a download, whatever the bytes are.

    The function takes no layout, so it does not check what the numbers mean: ``decode_weights`` does.

    Raises:
        WrongSpec: the container has another codec, or not one byte per parameter.
        CodecError: the bytes are not a container of quantized numbers.
    """
    container = parse(data, limits)
    spec = read_spec(container)
    if not isinstance(spec, DenseSpec) or spec.bits not in {None, 8}:
        bits = getattr(spec, "bits", None)
        raise WrongSpec(f"the container is of {spec.codec}, bits {bits}; a download is dense with 8")
    streams = StreamReader(spec, container.streams, limits)
    streams.require_count(1)
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
    scales = read_scales(container.scales, None)
    return RowWeights(container.layout, scales, np.frombuffer(streams.read(0, size), np.int8))
