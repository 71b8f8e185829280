"""Every limit on untrusted msgpack holds at its own value, and not one above it."""

import msgpack
import pytest

from keyflock_compression.errors import MalformedContainer
from keyflock_compression.unpacking import UnpackLimits, unpack


def limits(**other: int) -> UnpackLimits:
    wide = {
        "max_objects": 1_000,
        "max_depth": 9,
        "max_list_items": 900,
        "max_map_items": 900,
        "max_string_bytes": 900,
    }
    return UnpackLimits(**(wide | other))


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("limit", "at", "beyond", "says"),
    [
        # A list of n values is n + 1 objects, a map of n fields 2 n + 1.
        (limits(max_objects=12), [0] * 11, [0] * 12, "of at most 12 values"),
        (limits(max_objects=11), dict.fromkeys("abcde"), dict.fromkeys("abcdef"), "of at most 11 values"),
        (limits(max_depth=2), nested(2), nested(3), "nested too deeply"),
        (limits(max_depth=2), {"a": {"b": 0}}, {"a": {"b": {}}}, "nested too deeply"),
        # The short and the long header of each kind.
        (limits(max_list_items=15), [0] * 15, [0] * 16, "lists of at most 15"),
        (limits(max_list_items=14), [0] * 14, [0] * 15, "lists of at most 14"),
        (limits(max_list_items=70), [0] * 70, [0] * 71, "lists of at most 70"),
        (
            limits(max_map_items=15),
            dict.fromkeys(map(str, range(15))),
            dict.fromkeys(map(str, range(16))),
            "maps of at most 15",
        ),
        (
            limits(max_map_items=14),
            dict.fromkeys(map(str, range(14))),
            dict.fromkeys(map(str, range(15))),
            "maps of at most 14",
        ),
        (limits(max_string_bytes=40), "s" * 40, "s" * 41, "strings of at most 40"),
        (limits(max_string_bytes=300), "s" * 300, "s" * 301, "strings of at most 300"),
    ],
)
def test_a_limit_holds_at_its_own_value(limit: UnpackLimits, at: object, beyond: object, says: str) -> None:
    assert unpack(msgpack.packb(at), limit) == at

    with pytest.raises(MalformedContainer, match=says):
        unpack(msgpack.packb(beyond), limit)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        127,
        -1,
        -32,
        -33,
        255,
        2**8,
        2**16,
        2**32,
        2**64 - 1,
        -(2**7),
        -(2**15),
        -(2**31),
        -(2**63),
        0.1,
        "",
        "s" * 31,
        "s" * 32,
        "s" * 256,
        b"",
        b"b" * 255,
        b"b" * 256,
        b"b" * 65_536,
        [],
        {},
        [0] * 16,
        {"a": [b"b", {}]},
    ],
)
def test_every_kind_of_value_is_read_as_msgpack_reads_it(value: object) -> None:
    wide = limits()
    packed = msgpack.packb([value, 1])

    assert unpack(packed, wide) == [value, 1]
    for damaged in (packed[:-1], packed + b"\0"):
        with pytest.raises(MalformedContainer):
            unpack(damaged, wide)


@pytest.mark.parametrize(
    "data", [b"\xca\x3f\x80\0\0", b"\xdd\0\0\0\x01\0", b"\xdf\0\0\0\0", b"\xdb\0\0\0\x01s"]
)
def test_headers_longer_than_a_packer_writes_are_read(data: bytes) -> None:
    assert unpack(data, limits()) == msgpack.unpackb(data)


@pytest.mark.parametrize(
    "data", [b"\xd4\x05a", b"\xd6\xff\0\0\0\0", b"\xd8\x05" + bytes(16), b"\xc7\x00\x05", b"\xc1"]
)
def test_values_of_an_applications_own_kind_are_refused_before_they_are_built(data: bytes) -> None:
    with pytest.raises(MalformedContainer, match="of the kinds that are taken here"):
        unpack(data, limits())


@pytest.mark.parametrize("data", [msgpack.packb({1: 2}), b"\x81\x90\x00", b"\xa1\xff", b"\x81\xc0\x00"])
def test_a_key_that_is_no_string_and_a_string_that_is_no_text_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedContainer, match="not msgpack: "):
        unpack(data, limits())
