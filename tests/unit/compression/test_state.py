import hashlib

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from keyflock_compression import CodecError, LimitExceeded, decode_state, encode_state
from keyflock_compression.state import MAX_BODY_BYTES, MAX_STATE_BYTES

STATE: dict[str, object] = {
    "version": 1,
    "open": True,
    "nothing": None,
    "words": ["one", "zwei"],
    "head": {"down": np.arange(6, dtype=np.float16).reshape(2, 3), "ids": np.array([4, 9], np.int32)},
    "empty": np.zeros((0, 2), np.float32),
}


def contained(body: bytes, version: int = 1) -> bytes:
    digest = hashlib.blake2b(body, digest_size=16).digest()
    return bytes(msgpack.packb({"v": version, "digest": digest, "body": body}))


def container(state: object) -> bytes:
    return contained(zstandard.compress(msgpack.packb(state)))


def test_a_state_comes_back_as_it_was() -> None:
    found = decode_state(encode_state(STATE))

    assert {name: found[name] for name in ("version", "open", "nothing", "words")} == {
        "version": 1,
        "open": True,
        "nothing": None,
        "words": ["one", "zwei"],
    }
    head = found["head"]
    assert isinstance(head, dict)
    assert head["down"].dtype == np.float16
    assert head["down"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert head["ids"].tolist() == [4, 9]
    empty = found["empty"]
    assert isinstance(empty, np.ndarray)
    assert empty.shape == (0, 2)


def test_the_same_state_gives_the_same_bytes() -> None:
    assert encode_state(STATE) == encode_state(STATE)


def test_a_type_that_has_no_place_there_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="complex"):
        encode_state({"value": complex(1, 2)})
    with pytest.raises(TypeError, match="ndarray"):
        encode_state({"value": np.zeros(2, np.int64)})


def test_a_state_too_large_is_not_written() -> None:
    noise = np.random.default_rng(0).normal(size=60_000).astype(np.float32)

    with pytest.raises(LimitExceeded, match="at most 131072"):
        encode_state({"noise": noise})


@given(st.binary(max_size=300))
def test_any_bytes_are_a_state_or_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_state(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_bits_go_unnoticed(at: int, flip: int) -> None:
    data = bytearray(encode_state(STATE))
    data[at % len(data)] ^= flip

    with pytest.raises(CodecError):
        decode_state(bytes(data))


def test_no_cut_goes_unnoticed() -> None:
    data = encode_state(STATE)

    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode_state(data[:end])


def nested(depth: int) -> object:
    return {} if depth == 0 else {"in": nested(depth - 1)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00" * (MAX_STATE_BYTES + 1), "at most"),
        (contained(b"", version=2), "version 1"),
        (contained(b"no zstd"), "no zstd frame"),
        (contained(zstandard.compress(b"\x00" * (MAX_BODY_BYTES + 1))), "at most"),
        (container([1]), "no map"),
        (container(nested(9)), "nested too deeply"),
        (container({"a": {"t": "<f8", "s": [1], "b": bytes(8)}}), "no type"),
        (container({"a": {"t": "<f4", "s": [1], "b": "text"}}), "no bytes"),
        (container({"a": {"t": "<f4", "s": [2], "b": bytes(4)}}), "not those of its shape"),
        (container({"a": {"t": "<f4", "s": [-1], "b": bytes(4)}}), "no shape"),
        (container({"a": {"t": "<f4", "s": [1, 1, 1], "b": bytes(4)}}), "no shape"),
        (container({"a": {"t": "<f4", "s": [True], "b": bytes(4)}}), "no shape"),
        (container({"a": {"t": "<f4", "s": [1 << 20, 1 << 20], "b": bytes(4)}}), "not those of its shape"),
        (container({"a": {"t": "<f4", "s": 4, "b": bytes(4)}}), "no shape"),
        (contained(zstandard.compress(msgpack.packb({"a": 1}) + b"rest")), "not msgpack"),
    ],
)
def test_lies_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        decode_state(data)


def test_a_bomb_without_a_stated_size_stops_at_the_limit() -> None:
    squeezer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = squeezer.compress(b"\x00" * (64 * MAX_BODY_BYTES)) + squeezer.flush()

    with pytest.raises(CodecError, match="within the limit"):
        decode_state(contained(bomb))
