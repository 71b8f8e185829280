"""Compression turns a delta into few bytes and decodes them safely.

Begin with ``CodecSpec`` (which codec), then ``encode`` and ``decode``; docs/wire_format.md has the bytes.
The package is pure: it uses numpy, msgpack, msgspec and zstandard, never jax and never I/O.
"""

from keyflock_compression.codec import container_length, container_sizes, decode, encode
from keyflock_compression.codec_interface import ContainerLength, ContainerSizes
from keyflock_compression.errors import (
    CodecError,
    CorruptedContainer,
    LimitExceeded,
    MalformedContainer,
    NonFinite,
    SpecError,
    WrongBase,
    WrongLayout,
    WrongSpec,
)
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.measures import nmse
from keyflock_compression.rowset import rowset_integers, rowset_size, rowset_update
from keyflock_compression.spec import (
    DEFAULT_SPEC,
    AdaptiveStepSpec,
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    Float32Spec,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    parse_spec,
)
from keyflock_compression.state import MAX_STATE_BYTES, decode_state, encode_state
from keyflock_compression.update import DecodedUpdate
from keyflock_compression.weights import content_digest, decode_weights, encode_weights
from keyflock_compression.weights_delta import apply_weights_delta, encode_weights_delta

__all__ = [
    "DEFAULT_LIMITS",
    "DEFAULT_SPEC",
    "MAX_STATE_BYTES",
    "AdaptiveStepSpec",
    "CodecError",
    "CodecSpec",
    "ContainerLength",
    "ContainerSizes",
    "CorruptedContainer",
    "DeadzoneRowsSpec",
    "DeadzoneSpec",
    "DecodeLimits",
    "DecodedUpdate",
    "DenseSpec",
    "Float32Spec",
    "Layout",
    "LimitExceeded",
    "MalformedContainer",
    "NonFinite",
    "RandmaskSpec",
    "RotatedSpec",
    "RowsetSpec",
    "SpecError",
    "TopkSpec",
    "WrongBase",
    "WrongLayout",
    "WrongSpec",
    "apply_weights_delta",
    "container_length",
    "container_sizes",
    "content_digest",
    "decode",
    "decode_state",
    "decode_weights",
    "encode",
    "encode_state",
    "encode_weights",
    "encode_weights_delta",
    "nmse",
    "parse_spec",
    "rowset_integers",
    "rowset_size",
    "rowset_update",
]
