"""What a container may hold, at each of its limits, and what is said of one that holds something else."""

import hashlib
from typing import Any

import msgpack
import pytest

from keyflock_compression import (
    DEFAULT_SPEC,
    CorruptedContainer,
    DecodeLimits,
    Float32Spec,
    LimitExceeded,
    MalformedContainer,
)
from keyflock_compression.container import Container, parse, read_expected, unpack_map

LIMITS = DecodeLimits()
SPEC: dict[str, object] = {"codec": "float32"}
GOOD = {"v": 1, "spec": SPEC, "layout": b"l" * 16, "scales": b"", "streams": [b"s"]}


def forged(**changed: object) -> bytes:
    """A container with other fields, and the digest of its own content as the document states it."""
    fields = GOOD | changed
    digest = hashlib.blake2b(msgpack.packb(fields), digest_size=8).digest()
    return bytes(msgpack.packb(fields | {"digest": digest}))


def test_a_container_is_read_as_it_was_written() -> None:
    assert parse(forged(), LIMITS) == Container(SPEC, b"l" * 16, b"", (b"s",))
    assert Container(SPEC, b"l" * 16, b"", (b"s",)).to_bytes() == forged()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"v": 0}, "version is not 1"),
        ({"v": 2}, "version is not 1"),
        ({"v": True}, "version is not 1"),
        ({"v": 1.0}, "version is not 1"),
        ({"v": None}, "version is not 1"),
        ({"spec": b"", "streams": []}, "spec must be a map and streams a list"),
        ({"spec": [], "streams": []}, "spec must be a map and streams a list"),
        ({"streams": b""}, "spec must be a map and streams a list"),
        ({"streams": {}}, "spec must be a map and streams a list"),
        ({"layout": "l" * 16}, "must be binary"),
        ({"scales": ""}, "must be binary"),
        ({"scales": None}, "must be binary"),
        ({"streams": ["s"]}, "must be binary"),
        ({"streams": [b"s", 1]}, "must be binary"),
        ({"layout": b"l" * 15}, "has 15 bytes instead of 16"),
        ({"layout": b"l" * 17}, "has 17 bytes instead of 16"),
    ],
)
def test_a_field_of_another_kind_is_named(changed: dict[str, object], says: str) -> None:
    with pytest.raises(MalformedContainer, match=says):
        parse(forged(**changed), LIMITS)


def test_a_number_in_another_form_of_the_same_length_is_refused() -> None:
    # 300 as an unsigned and as a signed number of two bytes; the digest is over the first.
    good = forged(spec=SPEC | {"n": 300})
    other = good.replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c")

    assert parse(good, LIMITS).spec["n"] == 300
    assert len(other) == len(good)
    with pytest.raises(MalformedContainer, match="shortest forms"):
        parse(other, LIMITS)


def view(data: bytes) -> Any:  # noqa: ANN401 - a server's bytes are a view of the request's body
    return memoryview(b"body" + data)[4:]


STREAMS = (b"", b"s" * 255, b"s" * 256, b"s" * 65_536, b"s")


def test_the_short_way_finds_what_parsing_finds() -> None:
    for spec in (Float32Spec(), DEFAULT_SPEC):
        whole = Container(spec.to_wire(), b"l" * 16, b"scales", STREAMS).to_bytes()

        for data in (whole, view(whole)):
            assert read_expected(data, spec, b"l" * 16, LIMITS) == (b"scales", STREAMS)
            assert parse(data, LIMITS).streams == STREAMS


def test_the_short_way_takes_no_other_spec_and_no_other_layout() -> None:
    whole = Container(Float32Spec().to_wire(), b"l" * 16, b"", ()).to_bytes()

    assert read_expected(whole, Float32Spec(), b"l" * 16, LIMITS) == (b"", ())
    assert read_expected(whole, Float32Spec(zstd_level=4), b"l" * 16, LIMITS) is None
    assert read_expected(whole, Float32Spec(), b"m" * 16, LIMITS) is None


def test_the_short_way_takes_nothing_that_parsing_refuses() -> None:
    spec = Float32Spec(entropy="none")
    whole = Container(spec.to_wire(), b"l" * 16, b"scales", (b"", b"stream")).to_bytes()
    damaged = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    cut = [whole[:at] for at in range(len(whole))]
    long_form = forged(spec=spec.to_wire()).replace(b"\xa6scales\xc4\x00", b"\xa6scales\xc5\x00\x00")
    too_many = forged(spec=spec.to_wire(), streams=[b""] * 9)

    assert read_expected(whole, spec, b"l" * 16, LIMITS) == (b"scales", (b"", b"stream"))
    for data in (*damaged, *cut, whole + b"\x00", long_form, too_many):
        assert read_expected(data, spec, b"l" * 16, LIMITS) is None
        assert read_expected(view(data), spec, b"l" * 16, LIMITS) is None
    assert read_expected(whole, spec, b"l" * 16, DecodeLimits(max_container_bytes=len(whole) - 1)) is None


def test_a_digest_is_eight_bytes_of_all_that_comes_before_it() -> None:
    fields = msgpack.unpackb(forged())

    for digest in (fields["digest"][:7], b"", b"d" * 8):
        with pytest.raises(CorruptedContainer):
            parse(msgpack.packb(fields | {"digest": digest}), LIMITS)
    with pytest.raises(MalformedContainer, match="must be binary"):
        parse(msgpack.packb(fields | {"digest": "digest"}), LIMITS)


@pytest.mark.parametrize(
    "fields", [{**GOOD, "digest": b"", "more": 1}, GOOD, {"v": 1, "digest": b""}, {"v": 1}]
)
def test_a_container_has_exactly_its_fields(fields: dict[str, object]) -> None:
    with pytest.raises(
        MalformedContainer, match="exactly the fields v, spec, layout, scales, streams, digest"
    ):
        parse(msgpack.packb(fields), LIMITS)


@pytest.mark.parametrize("value", [{}, [], [1], "map", None])
def test_what_is_no_map_or_an_empty_one_is_no_container(value: object) -> None:
    with pytest.raises(MalformedContainer, match="not a msgpack map"):
        unpack_map(msgpack.packb(value))


def test_a_container_has_up_to_eight_streams() -> None:
    assert len(parse(forged(streams=[b""] * 8), LIMITS).streams) == 8

    with pytest.raises(MalformedContainer, match="lists of at most 8"):
        parse(forged(streams=[b""] * 9), LIMITS)


def test_a_spec_has_up_to_thirty_two_fields_and_no_structure() -> None:
    spec: dict[str, object] = {f"field {number}": number for number in range(32)}
    assert parse(forged(spec=spec), LIMITS).spec == spec

    with pytest.raises(MalformedContainer, match="maps of at most 32"):
        parse(forged(spec={**spec, "one more": 0}), LIMITS)
    with pytest.raises(MalformedContainer, match="nested too deeply"):
        parse(forged(spec={"codec": []}), LIMITS)


def test_a_string_has_up_to_sixty_four_bytes() -> None:
    assert parse(forged(spec={"codec": "c" * 64}), LIMITS).spec == {"codec": "c" * 64}

    with pytest.raises(MalformedContainer, match="strings of at most 64"):
        parse(forged(spec={"codec": "c" * 65}), LIMITS)


def test_a_container_has_up_to_ninety_six_values() -> None:
    # The map itself, then 66, 10, 10 and 9 values, each with its key among them.
    fields = {"a": dict.fromkeys(map(str, range(32))), "b": [0] * 8, "c": [0] * 8, "d": [0] * 7}
    assert unpack_map(msgpack.packb(fields)) == fields

    with pytest.raises(MalformedContainer, match="at most 96 values"):
        unpack_map(msgpack.packb(fields | {"d": [0] * 8}))


def test_a_container_is_as_long_as_the_limit_and_no_longer() -> None:
    data = forged()
    assert parse(data, DecodeLimits(max_container_bytes=len(data))).spec == SPEC

    with pytest.raises(LimitExceeded, match=f"has {len(data)} bytes; at most {len(data) - 1} are taken"):
        parse(data, DecodeLimits(max_container_bytes=len(data) - 1))
