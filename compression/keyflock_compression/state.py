"""The stored form of a personal model's state: a map of numbers, strings and arrays as bytes.

It is one msgpack map {v, digest, body}; the body is zstd over msgpack, in which an array is a map of its
type, shape and bytes. Reading untrusted bytes takes bounded time and memory.
"""

import hashlib
from typing import Final

import msgpack
import numpy as np
import zstandard

from keyflock_compression.errors import LimitExceeded, MalformedContainer
from keyflock_compression.limits import DEFAULT_LIMITS
from keyflock_compression.unpacking import UnpackLimits, unpack

STATE_CONTAINER_VERSION: Final = 1
#: Maximum length on the wire and on a disk.
MAX_STATE_BYTES: Final = 131_072
#: Maximum length of what they unpack to.
MAX_BODY_BYTES: Final = 1_048_576
_TYPES: Final = {"<f2": np.float16, "<f4": np.float32, "<i4": np.int32}
_ZSTD_LEVEL: Final = 9
#: The limits of the map {v, digest, body}.
_CONTAINER_LIMITS: Final = UnpackLimits(
    max_objects=7, max_depth=1, max_list_items=0, max_map_items=3, max_string_bytes=16
)
#: A personal model has some two thousand words of the user's own, and some two hundred other values.
_BODY_LIMITS: Final = UnpackLimits(
    max_objects=8_192, max_depth=8, max_list_items=4_096, max_map_items=64, max_string_bytes=1_024
)
_DIGEST_BYTES: Final = 16


def encode_state(state: dict[str, object]) -> bytes:
    """Encode a state as bytes.

    Args:
        state: A map of maps, lists, strings, numbers, and arrays of float16, float32 or int32.
    Raises:
        LimitExceeded: it is larger than any personal model may be.
        TypeError: it holds something else.
    """
    body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(msgpack.packb(state, default=_encode_array))
    data: bytes = msgpack.packb({"v": STATE_CONTAINER_VERSION, "digest": _digest(body), "body": body})
    if len(data) > MAX_STATE_BYTES:
        raise LimitExceeded(f"the state takes {len(data)} bytes; at most {MAX_STATE_BYTES} are taken")
    return data


def decode_state(data: bytes) -> dict[str, object]:
    """Decode what `encode_state` wrote.

    Guarantees:
        Whatever the bytes are, decoding takes some milliseconds and a few times ``MAX_BODY_BYTES`` of memory.
    Raises:
        CodecError: one of its subclasses says what was wrong; nothing else is ever raised.
    """
    if len(data) > MAX_STATE_BYTES:
        raise LimitExceeded(f"{len(data)} bytes; at most {MAX_STATE_BYTES} are taken")
    fields = unpack(data, _CONTAINER_LIMITS)
    if not isinstance(fields, dict) or set(fields) != {"v", "digest", "body"}:
        raise MalformedContainer("the container's fields are not v, digest and body")
    version, body = fields["v"], fields["body"]
    if type(version) is not int or version != STATE_CONTAINER_VERSION or not isinstance(body, bytes):
        raise MalformedContainer(f"the container is not of version {STATE_CONTAINER_VERSION}")
    if fields["digest"] != _digest(body):
        raise MalformedContainer("the digest is not that of the body")
    state = _restore_arrays(unpack(_decompress(body), _BODY_LIMITS))
    if not isinstance(state, dict):
        raise MalformedContainer("the body is no map")
    return state


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _encode_array(value: object) -> object:
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        if little.dtype.str in _TYPES:
            return {"t": little.dtype.str, "s": list(value.shape), "b": little.tobytes()}
    raise TypeError(f"{type(value).__name__} has no place in a personal model's state")


def _decompress(body: bytes) -> bytes:
    try:
        # Check the stated size first: max_output_size is ignored where the frame states its size.
        stated = zstandard.frame_content_size(body)
        if stated > MAX_BODY_BYTES:
            raise LimitExceeded(f"the body states {stated} bytes; at most {MAX_BODY_BYTES} are taken")
        # A frame that states no size may ask for a window far beyond the limit of what it may hold.
        decompressor = zstandard.ZstdDecompressor(max_window_size=DEFAULT_LIMITS.max_window_bytes)
        return decompressor.decompress(body, max_output_size=MAX_BODY_BYTES)
    except zstandard.ZstdError:
        raise MalformedContainer("the body is no zstd frame within the limit") from None


def _restore_arrays(value: object) -> object:
    if isinstance(value, list):
        return [_restore_arrays(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"t", "s", "b"}:
        return _array(value["t"], value["s"], value["b"])
    return {key: _restore_arrays(one) for key, one in value.items()}


def _array(kind: object, shape: object, data: object) -> np.ndarray:
    if not isinstance(kind, str) or kind not in _TYPES or not isinstance(data, bytes):
        raise MalformedContainer("an array has no type or no bytes")
    if not isinstance(shape, list) or len(shape) > 2:
        raise MalformedContainer("an array has no shape")
    if any(type(one) is not int or not 0 <= one <= MAX_BODY_BYTES for one in shape):
        raise MalformedContainer("an array has no shape")
    if int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize != len(data):
        raise MalformedContainer("an array's bytes are not those of its shape")
    return np.frombuffer(data, kind).astype(_TYPES[kind]).reshape(shape)
