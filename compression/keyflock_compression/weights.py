"""The downlink: a whole model in int8 with one scale per row, in the same container as a delta.

Phones train from the weights that they decode, and the server takes the delta against the same decoded
weights, so that the error of this quantisation is never charged to a phone.
"""

from typing import Final, Literal

from keyflock_compression.arrays import Float32
from keyflock_compression.codec import decode, encode
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.row_weights import read_row_weights
from keyflock_compression.spec import CodecSpec, DenseSpec, Float32Spec

Precision = Literal["int8", "float32"]

_SPECS: Final[dict[Precision, CodecSpec]] = {
    "int8": DenseSpec(zstd_level=3),
    "float32": Float32Spec(zstd_level=1),
}


def encode_weights(vector: Float32, layout: Layout, *, precision: Precision = "int8") -> bytes:
    """Encode a model for phones; equal arguments give equal bytes.

    Args:
        vector: The weights. Shape (P,), float32.
        layout: Their layout.
        precision: ``int8`` (about a byte per parameter), or ``float32`` for exact tests.
    Raises:
        CodecError: the weights do not fit the layout or are not finite.
    """
    return encode(vector, layout, _SPECS[precision], seed=0)


def decode_weights(data: bytes, layout: Layout, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Float32:
    """Decode the weights that phones train from. Shape (P,), float32.

    Raises:
        CodecError: the bytes are not a model of this layout.
    """
    return decode(data, layout, limits=limits).dense()


def content_digest(data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Return the 32 bytes that identify the model in an int8 download, however its bytes were packed.

    Raises:
        CodecError: the bytes are no such download.
    """
    return read_row_weights(data, limits).content_digest
