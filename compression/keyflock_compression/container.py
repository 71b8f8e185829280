"""The container: the msgpack map in which an encoded vector travels.

    {"v": 1, "spec": {...}, "layout": 16 bytes, "scales": float32 little-endian, "streams": [bytes, ...],
     "digest": 8 bytes}

The fields are written in this order, so equal content gives equal bytes. The digest is BLAKE2b over all that
comes before it; it finds damage, not malice, because a phone can always sign what it likes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from keyflock_compression.errors import CorruptedContainer, LimitExceeded, MalformedContainer, SpecError
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.spec import CodecSpec, parse_spec
from keyflock_compression.unpacking import UnpackLimits, unpack

VERSION: Final = 1
LAYOUT_DIGEST_BYTES: Final = 16
CONTAINER_DIGEST_BYTES: Final = 8
#: Limits for six fields, up to eight streams, and a spec of up to 32 fields.
_LIMITS: Final = UnpackLimits(
    max_objects=96, max_depth=2, max_list_items=8, max_map_items=32, max_string_bytes=64
)
_KEYS: Final = ("v", "spec", "layout", "scales", "streams", "digest")


@dataclass(frozen=True, slots=True)
class Container:
    """The content of a container: spec, layout digest, scales, and the streams in the codec's order."""

    spec: dict[str, object]
    layout: bytes
    scales: bytes
    streams: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Return the container as it is on the wire; equal containers give equal bytes."""
        return _pack(self, _digest(self))


def parse(data: bytes, limits: DecodeLimits) -> Container:
    """Parse a container, whatever the bytes are.

    Raises:
        LimitExceeded: it is longer than the limits allow.
        MalformedContainer: it is not a container of version 1.
        CorruptedContainer: the digest does not match.
    """
    if len(data) > limits.max_container_bytes:
        raise LimitExceeded(
            f"the container has {len(data)} bytes; at most {limits.max_container_bytes} are taken"
        )
    fields = unpack_map(data)
    version = fields.get("v")
    if type(version) is not int or version != VERSION:
        raise MalformedContainer(f"container version is not {VERSION}")
    if tuple(fields) != _KEYS:
        raise MalformedContainer(f"a container has exactly the fields {', '.join(_KEYS)}, in this order")
    spec, layout, scales, streams, digest = (fields[key] for key in _KEYS[1:])
    if not isinstance(spec, dict) or not isinstance(streams, list):
        raise MalformedContainer("spec must be a map and streams a list")
    if not all(isinstance(part, bytes) for part in (layout, scales, digest, *streams)):
        raise MalformedContainer("layout, scales, digest and every stream must be binary")
    if len(layout) != LAYOUT_DIGEST_BYTES:
        raise MalformedContainer(
            f"the layout digest has {len(layout)} bytes instead of {LAYOUT_DIGEST_BYTES}"
        )
    container = Container(spec, layout, scales, tuple(streams))
    if digest != _digest(container):
        raise CorruptedContainer("the container's digest does not match its content")
    return container


def read_spec(container: Container) -> CodecSpec:
    """Read the container's spec.

    Raises:
        MalformedContainer: the spec cannot be used; the message says why.
    """
    try:
        return parse_spec(container.spec)
    except SpecError as error:
        raise MalformedContainer(str(error)) from None


def _pack(container: Container, digest: bytes | None) -> bytes:
    fields: dict[str, object] = {
        "v": VERSION,
        "spec": container.spec,
        "layout": container.layout,
        "scales": container.scales,
        "streams": list(container.streams),
    }
    if digest is not None:
        fields["digest"] = digest
    return bytes(msgpack.packb(fields, use_bin_type=True))


def _digest(container: Container) -> bytes:
    return hashlib.blake2b(_pack(container, None), digest_size=CONTAINER_DIGEST_BYTES).digest()


def unpack_map(data: bytes) -> dict[str, Any]:
    """Unpack a msgpack map within a container's limits; raise MalformedContainer where it is none."""
    value = unpack(data, _LIMITS)
    if not isinstance(value, dict) or not value:
        raise MalformedContainer("the bytes are not a msgpack map")
    return value
