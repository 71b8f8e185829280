"""A delta becomes few bytes and comes back, safely.

Begin with ``CodecSpec`` (which codec), then ``encode`` and ``decode``; docs/wire_format.md has the bytes.
Pure: numpy, msgpack and zstandard; never jax, never I/O.
"""

from keyflock_compression.codec import decode, encode, length_of, sizes_of
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
from keyflock_compression.family import Length, Sizes
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.measures import nmse
from keyflock_compression.rowset import rowset_integers, rowset_size, rowset_update
from keyflock_compression.spec import DEFAULT_SPEC, CodecSpec
from keyflock_compression.state import MAX_STATE_BYTES, decode_state, encode_state
from keyflock_compression.update import DecodedUpdate
from keyflock_compression.weights import content_digest, decode_weights, encode_weights
from keyflock_compression.weights_delta import apply_weights_delta, encode_weights_delta

__all__ = [
    "DEFAULT_LIMITS",
    "DEFAULT_SPEC",
    "MAX_STATE_BYTES",
    "CodecError",
    "CodecSpec",
    "CorruptedContainer",
    "DecodeLimits",
    "DecodedUpdate",
    "Layout",
    "Length",
    "LimitExceeded",
    "MalformedContainer",
    "NonFinite",
    "Sizes",
    "SpecError",
    "WrongBase",
    "WrongLayout",
    "WrongSpec",
    "apply_weights_delta",
    "content_digest",
    "decode",
    "decode_state",
    "decode_weights",
    "encode",
    "encode_state",
    "encode_weights",
    "encode_weights_delta",
    "length_of",
    "nmse",
    "rowset_integers",
    "rowset_size",
    "rowset_update",
    "sizes_of",
]
