import hashlib
import tracemalloc
from collections import Counter

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.compression.codec_fuzzer import FuzzLayout
from tests.fuzz.compression.state_fuzzer import fuzz

from keyflock_compression import (
    CodecError,
    DenseSpec,
    LimitExceeded,
    MalformedContainer,
    apply_weights_delta,
    content_digest,
    decode,
    decode_state,
    decode_weights,
    encode,
    encode_state,
)
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


@pytest.mark.parametrize("version", [True, 1.0, 0, 2, None])
def test_the_version_is_the_whole_number_one(version: object) -> None:
    fields = msgpack.unpackb(encode_state(STATE))

    with pytest.raises(MalformedContainer, match="not of version 1"):
        decode_state(msgpack.packb(fields | {"v": version}))


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


def a_list(size: int) -> bytes:
    """The head of a list of so many values."""
    return b"\xdd" + size.to_bytes(4, "big")


def squeezed(body: bytes) -> bytes:
    return contained(zstandard.ZstdCompressor(level=9).compress(body[:MAX_BODY_BYTES]))


#: 983,040 of them, in 240 lists of 4,096.
A_MILLION_LISTS = squeezed(b"\x81\xa1a" + a_list(240) + (a_list(4_096) + b"\x90" * 4_096) * 240)
HOSTILE = {
    "a million lists": A_MILLION_LISTS,
    "a million maps": squeezed(b"\x81\xa1a" + a_list(240) + (a_list(4_096) + b"\x80" * 4_096) * 240),
    "a million numbers": squeezed(b"\x81\xa1a" + a_list(240) + (a_list(4_096) + b"\x01" * 4_096) * 240),
    "half a million words": squeezed(b"\x81\xa1a" + a_list(99) + (a_list(4_096) + b"\xa1b" * 4_096) * 99),
    "lists within lists": squeezed(a_list(4_096) * 200_000),
    "short lists within lists": squeezed(b"\x91" * MAX_BODY_BYTES),
    "maps within maps": squeezed(b"\x81\xa1a" * 300_000),
    "a map of lists within maps": squeezed(b"\x81\xa1a" + b"\x9f" * 16_000),
    "a list that is longer than it is": squeezed(b"\x81\xa1a" + a_list(2**32 - 1)),
    "a map that is longer than it is": squeezed(b"\xdf\xff\xff\xff\xff"),
    "a word that is longer than it is": squeezed(b"\x81\xa1a\xdb\xff\xff\xff\xff"),
    "bytes that are longer than they are": squeezed(b"\x81\xa1a\xc6\xff\xff\xff\xff"),
    "an extension": squeezed(b"\x81\xa1a\xc9\x00\x0f\x00\x00\x01" + bytes(1_000_000)),
    "zeros": squeezed(bytes(MAX_BODY_BYTES)),
    "lists around the container": b"\xdc\x10\x00" * 43_000,
    "lists in the container": b"\x83\xa1v" + b"\xdc\x10\x00" * 43_000,
    "maps in the container": b"\x83\xa1v" + b"\x83\xa1v" * 43_000,
}


def peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_state(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.fault("D11")
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_small_container_of_much_is_refused_before_anything_is_built_of_it(data: bytes) -> None:
    assert len(data) <= MAX_STATE_BYTES

    assert peak_bytes(data) < 3 * MAX_BODY_BYTES


@pytest.mark.fault("D11")
def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    squeezer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    asking = squeezer.compress(msgpack.packb({"a": 1})) + squeezer.flush()

    with pytest.raises(MalformedContainer, match="within the limit"):
        decode_state(contained(asking))


@pytest.mark.fault("D11")
@pytest.mark.parametrize(
    "data",
    [
        b"\x86" + b"\xdc\x10\x00" * 400_000,
        b"\x96" * 1_000_000,
        b"\x81\xa1a" * 300_000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["lists", "short lists", "maps", "one list"],
)
def test_every_decoder_of_the_package_counts_before_it_builds(data: bytes) -> None:
    spec = DenseSpec()
    layout = FuzzLayout()
    base = encode(np.zeros(layout.size, np.float32), layout, spec, seed=0)

    for decoder in (
        lambda: decode(data, layout),
        lambda: decode_weights(data, layout),
        lambda: content_digest(data),
        lambda: apply_weights_delta(data, base),
    ):
        tracemalloc.start()
        with pytest.raises(MalformedContainer):
            decoder()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000


@pytest.mark.fault("D11")
def test_a_state_may_hold_what_the_largest_personal_model_holds_on_either_side_of_the_limit() -> None:
    def of(values: int) -> bytes:
        lists = [list(range(4_096)) for _ in range(values // 4_096)] + [list(range(values % 4_096))]
        return container({"a": lists})

    # A map, its key, and a list of two lists are five more values.
    assert decode_state(of(8_192 - 5))
    with pytest.raises(MalformedContainer, match="at most 8192 values"):
        decode_state(of(8_192 - 4))


@pytest.mark.fault("D11")
def test_thousands_of_hostile_states_break_no_promise() -> None:
    outcomes: Counter[str] = Counter()

    assert fuzz(3_000, seed=1, outcomes=outcomes) is None

    assert outcomes["malformed"] > 500
    assert outcomes["state"] > 100


@pytest.mark.fault("D11")
def test_a_decoder_that_builds_before_it_counts_is_found() -> None:
    def careless(data: bytes) -> dict[str, object]:
        fields = msgpack.unpackb(data, strict_map_key=False)
        return {"body": msgpack.unpackb(zstandard.decompress(fields["body"], 1 << 26), strict_map_key=False)}

    finding = fuzz(3_000, seed=1, decoder=careless)

    assert finding is not None
