"""The container: the msgpack map in which an encoded vector travels.

    {"v": 1, "spec": {...}, "layout": 16 bytes, "scales": float32 little-endian, "streams": [bytes, ...],
     "digest": 8 bytes}

The fields are written in this order, so equal content gives equal bytes. The digest is BLAKE2b over all that
comes before it; it finds damage, not malice, because a phone can always sign what it likes.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgpack

from keyflock_compression.errors import CorruptedContainer, LimitExceeded, MalformedContainer, SpecError
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.spec import SETTINGS, CodecSpec, parse_spec
from keyflock_compression.unpacking import UnpackLimits, unpack

VERSION: Final = 1
LAYOUT_DIGEST_BYTES: Final = 16
CONTAINER_DIGEST_BYTES: Final = 8
_MAX_STREAMS: Final = 8
#: Limits for six fields, the streams, and a spec of up to 32 fields.
_LIMITS: Final = UnpackLimits(
    max_objects=96, max_depth=2, max_list_items=_MAX_STREAMS, max_map_items=32, max_string_bytes=64
)
#: No version and spec within the limits is longer than this.
_COMPARED_BYTES: Final = 8_192
_KEYS: Final = ("v", "spec", "layout", "scales", "streams", "digest")
_SCALES_KEY: Final = bytes(msgpack.packb("scales"))
_STREAMS_KEY: Final = bytes(msgpack.packb("streams"))
#: The last field up to the digest itself.
_DIGEST_HEAD: Final = bytes(msgpack.packb("digest") + b"\xc4" + bytes([CONTAINER_DIGEST_BYTES]))
_END_BYTES: Final = len(_DIGEST_HEAD) + CONTAINER_DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Container:
    """The content of a container: spec, layout digest, scales, and the streams in the codec's order."""

    spec: dict[str, object]
    layout: bytes
    scales: bytes
    streams: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Return the container as it is on the wire; equal containers give equal bytes."""
        signed = _pack(self)
        return b"\x86" + signed[1:] + _DIGEST_HEAD + _digest(signed)


def parse(data: bytes, limits: DecodeLimits) -> Container:
    """Parse a container, whatever the bytes are.

    Raises:
        LimitExceeded: it is longer than the limits allow.
        MalformedContainer: it is not a container of version 1, byte for byte as ``to_bytes`` writes it.
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
    signed = _pack(container)
    if digest != _digest(signed):
        raise CorruptedContainer("the container's digest does not match its content")
    if not _is_canonical(data, signed, digest):
        raise MalformedContainer("the container is not in msgpack's shortest forms")
    return container


def read_expected(
    data: bytes, spec: CodecSpec, layout: bytes, limits: DecodeLimits
) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Read the scales and the streams of a container whose spec and layout are known before.

    It is the short way for what a server receives all day: the bytes up to the scales are compared with those
    that an encoder writes, and only the lengths behind them are read.

    Args:
        data: The bytes, or a view of them.
        spec: The spec that the container must have.
        layout: The digest of the layout that it must have.
        limits: The limits of its size.
    Returns:
        What ``parse`` finds in the same bytes. None where they are not, byte for byte, a container with this
        spec and layout: ``parse`` says why, or what else they are.
    """
    head = _head(spec, layout)
    end = len(data) - _END_BYTES
    # Slices are compared, since a memoryview has no ``startswith``.
    if len(data) > limits.max_container_bytes or data[: len(head)] != head or end <= len(head):
        return None
    found = _read_binaries(data, len(head), end, 1)
    if found is None:
        return None
    (scales,), at = found
    if data[at : at + len(_STREAMS_KEY)] != _STREAMS_KEY:
        return None
    at += len(_STREAMS_KEY)
    count = data[at] - 0x90
    if not 0 <= count <= _MAX_STREAMS:
        return None
    found = _read_binaries(data, at + 1, end, count)
    if found is None or found[1] != end or data[end : end + len(_DIGEST_HEAD)] != _DIGEST_HEAD:
        return None
    hasher = hashlib.blake2b(b"\x85", digest_size=CONTAINER_DIGEST_BYTES)
    hasher.update(memoryview(data)[1:end])
    if data[-CONTAINER_DIGEST_BYTES:] != hasher.digest():
        return None
    return scales, tuple(found[0])


def read_spec(container: Container) -> CodecSpec:
    """Read the container's spec.

    Raises:
        MalformedContainer: the spec cannot be used; the message says why.
    """
    try:
        spec = parse_spec(container.spec)
    except SpecError as error:
        raise MalformedContainer(str(error)) from None
    if list(container.spec) != [name for name in SETTINGS if name in container.spec]:
        raise MalformedContainer(f"the spec's fields are in another order than {', '.join(SETTINGS)}")
    return spec


@lru_cache(maxsize=64)
def _head(spec: CodecSpec, layout: bytes) -> bytes:
    """Return the bytes before the scales in every container with this spec and layout."""
    return Container(spec.to_wire(), layout, b"", ()).to_bytes().partition(_SCALES_KEY)[0] + _SCALES_KEY


def _read_binaries(data: bytes, at: int, end: int, count: int) -> tuple[list[bytes], int] | None:
    """Return ``count`` binaries in their shortest form, and where the last one ends, at most at ``end``."""
    found = []
    for _ in range(count):
        # At least the digest lies behind ``end``, so that the head's bytes are there.
        kind = data[at]
        if kind == 0xC4:
            at, size, min_size = at + 2, data[at + 1], 0
        elif kind == 0xC5:
            at, size, min_size = at + 3, data[at + 1] << 8 | data[at + 2], 2**8
        elif kind == 0xC6:
            at, size, min_size = at + 5, int.from_bytes(data[at + 1 : at + 5], "big"), 2**16
        else:
            return None
        if size < min_size or at + size > end:
            return None
        found.append(bytes(data[at : at + size]))
        at += size
    return found, at


def _is_canonical(data: bytes, signed: bytes, digest: bytes) -> bool:
    """Return whether the bytes are those that ``to_bytes`` writes, given that their fields are equal.

    Every other form of a stream's head is longer, so the whole is only compared where numbers are: at its
    beginning, behind the first byte, which says how many fields there are.
    """
    end = _DIGEST_HEAD + digest
    beginning = min(len(signed), _COMPARED_BYTES)
    return (
        len(data) == len(signed) + len(end)
        and bytes(data[1:beginning]) == signed[1:beginning]
        and bytes(data[len(signed) :]) == end
    )


def _pack(container: Container) -> bytes:
    """Return the map of the fields that the digest is over."""
    fields: dict[str, object] = {
        "v": VERSION,
        "spec": container.spec,
        "layout": container.layout,
        "scales": container.scales,
        "streams": list(container.streams),
    }
    return bytes(msgpack.packb(fields, use_bin_type=True))


def _digest(signed: bytes) -> bytes:
    return hashlib.blake2b(signed, digest_size=CONTAINER_DIGEST_BYTES).digest()


def unpack_map(data: bytes) -> dict[str, Any]:
    """Unpack a msgpack map within a container's limits; raise MalformedContainer where it is none."""
    value = unpack(data, _LIMITS)
    if not isinstance(value, dict) or not value:
        raise MalformedContainer("the bytes are not a msgpack map")
    return value
