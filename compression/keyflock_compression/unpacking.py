"""Reading of untrusted msgpack, which is counted before any object is built from it.

msgpack allocates a list as soon as it has read the length that the list states, and reports a list only when
it is complete: a megabyte of empty lists, or a thousand nested lists, has cost its memory and its time by
then. So this module walks over the headers alone first, and stops at the first limit that is exceeded.
This package reads received msgpack in no other way.

Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from dataclasses import dataclass
from typing import Final

import msgpack

from keyflock_compression.errors import MalformedContainer


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """The limits on what a message may hold."""

    #: Number of values of every kind: lists, maps, keys, and what is in them.
    max_objects: int
    #: Depth of nested lists and maps; 1 is a map of plain values.
    max_depth: int
    #: Length of one list, and of one map.
    max_list_items: int
    max_map_items: int
    #: Length of one string. A binary is bounded by the message.
    max_string_bytes: int


#: By the first byte of a value: the bytes that follow it, or the bytes that state their number.
_PLAIN: Final = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3), 0),
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}
_BINARY: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_STRING: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LIST: Final = {0xDC: 2, 0xDD: 4}
_MAP: Final = {0xDE: 2, 0xDF: 4}


def unpack(data: bytes, limits: UnpackLimits) -> object:
    """Unpack the value that ``data`` holds, whatever the bytes are.

    Guarantees:
        Time and memory are proportional to ``max_objects`` and the length of ``data``; nothing is built
        from a message that exceeds a limit.
    Raises:
        MalformedContainer: it is not one whole msgpack value, or exceeds a limit that the message names.
    """
    _check(data, limits)
    try:
        return msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedContainer(f"not msgpack: {type(error).__name__}") from None


def _check(data: bytes, limits: UnpackLimits) -> None:
    """Walk over the headers; raise MalformedContainer where a limit is exceeded."""
    at, objects = 0, 0
    # How many values are still to come in each list or map that is open.
    open_lists = [1]
    while open_lists:
        if not open_lists[-1]:
            open_lists.pop()
            continue
        open_lists[-1] -= 1
        objects += 1
        if objects > limits.max_objects:
            raise MalformedContainer(f"not msgpack of at most {limits.max_objects} values")
        skipped, within = _header(data, at, limits)
        at += skipped
        if within is not None:
            if len(open_lists) > limits.max_depth:
                raise MalformedContainer("not msgpack within the limits: nested too deeply")
            open_lists.append(within)
    if at != len(data):
        raise MalformedContainer("not msgpack: bytes follow the value, or are missing")


def _header(data: bytes, at: int, limits: UnpackLimits) -> tuple[int, int | None]:
    """Return the bytes of the value at this offset, and for a list or map the number of its values.

    A list's or map's bytes are those of its header alone.
    """
    if at >= len(data):
        raise MalformedContainer("not msgpack: it ends too early")
    first = data[at]
    plain = _PLAIN.get(first)
    if plain is not None:
        return 1 + plain, None
    if 0xA0 <= first < 0xC0:
        return 1 + first - 0xA0, None
    if first in _STRING or first in _BINARY:
        width = _STRING.get(first) or _BINARY[first]
        length = _number(data, at + 1, width)
        if first in _STRING and length > limits.max_string_bytes:
            raise MalformedContainer(f"not msgpack with strings of at most {limits.max_string_bytes} bytes")
        return 1 + width + length, None
    if 0x90 <= first < 0xA0 or first in _LIST:
        width = _LIST.get(first, 0)
        items = _number(data, at + 1, width) if width else first - 0x90
        if items > limits.max_list_items:
            raise MalformedContainer(f"not msgpack with lists of at most {limits.max_list_items} values")
        return 1 + width, items
    if 0x80 <= first < 0x90 or first in _MAP:
        width = _MAP.get(first, 0)
        items = _number(data, at + 1, width) if width else first - 0x80
        if items > limits.max_map_items:
            raise MalformedContainer(f"not msgpack with maps of at most {limits.max_map_items} fields")
        return 1 + width, 2 * items
    raise MalformedContainer("not msgpack of the kinds that are taken here")


def _number(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "big")
