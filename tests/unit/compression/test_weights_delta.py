"""From one download to the next: exact, small where little moved, and never applied to the wrong model."""

import hashlib
from dataclasses import dataclass

import msgpack
import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from keyflock_compression import (
    CodecError,
    CorruptedContainer,
    DenseSpec,
    LimitExceeded,
    MalformedContainer,
    WrongBase,
    WrongLayout,
    WrongSpec,
    apply_weights_delta,
    content_digest,
    decode_weights,
    encode,
    encode_weights,
    encode_weights_delta,
)
from keyflock_compression.container import Container
from keyflock_compression.limits import DecodeLimits
from keyflock_compression.row_weights import RowWeights

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class ManyRowsLayout:
    """The layout of a small model: an embedding, a bias, a matrix."""

    names: tuple[str, ...] = ("embedding", "bias", "kernel")
    shapes: tuple[tuple[int, ...], ...] = ((1_000, 48), (1_000,), (48, 300))
    offsets: tuple[int, ...] = (0, 48_000, 49_000)
    size: int = 63_400
    digest: bytes = b"a small model's."


LAYOUT = ManyRowsLayout()
RNG = np.random.default_rng(0)
BEFORE: Vector = RNG.normal(0.0, 0.1, LAYOUT.size).astype(np.float32)


def stepped(share: float) -> Vector:
    """Some of the values moved, as a server step over sparse deltas moves them."""
    moves = RNG.normal(0.0, 0.01, LAYOUT.size) * (RNG.random(LAYOUT.size) < share)
    return (BEFORE + moves).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 1.0])
def test_a_phone_with_a_delta_trains_from_the_weights_of_the_whole_download(share: float) -> None:
    before, after = encode_weights(BEFORE, LAYOUT), encode_weights(stepped(share), LAYOUT)

    made = apply_weights_delta(encode_weights_delta(after, before), before, result=content_digest(after))

    np.testing.assert_array_equal(decode_weights(made, LAYOUT), decode_weights(after, LAYOUT))
    assert content_digest(made) == content_digest(after)


def test_what_a_delta_made_is_a_base_for_the_next_and_a_way_back_leads_back() -> None:
    bodies = [encode_weights(weights, LAYOUT) for weights in (BEFORE, stepped(0.05), stepped(0.05))]
    phone = bodies[0]

    for before, after in ((0, 1), (1, 2), (2, 0)):
        phone = apply_weights_delta(encode_weights_delta(bodies[after], bodies[before]), phone)

    assert content_digest(phone) == content_digest(bodies[0])


def test_a_step_that_moves_a_twentieth_takes_less_than_a_third_of_the_whole() -> None:
    before, after = encode_weights(BEFORE, LAYOUT), encode_weights(stepped(0.05), LAYOUT)

    assert len(encode_weights_delta(after, before)) < len(after) / 3
    assert len(encode_weights_delta(before, before)) < 400


def test_a_delta_on_the_wrong_base_is_noticed() -> None:
    before, after, other = (
        encode_weights(weights, LAYOUT) for weights in (BEFORE, stepped(0.05), stepped(0.05))
    )

    with pytest.raises(WrongBase):
        apply_weights_delta(encode_weights_delta(after, before), other)


def test_a_delta_to_another_model_than_was_assigned_is_noticed() -> None:
    before, after, other = (
        encode_weights(weights, LAYOUT) for weights in (BEFORE, stepped(0.05), stepped(0.05))
    )

    with pytest.raises(WrongBase):
        apply_weights_delta(encode_weights_delta(after, before), before, result=content_digest(other))


def test_a_bit_that_flips_on_the_way_is_noticed() -> None:
    before, after = encode_weights(BEFORE, LAYOUT), encode_weights(stepped(0.05), LAYOUT)
    delta = bytearray(encode_weights_delta(after, before))
    delta[len(delta) // 2] ^= 4

    with pytest.raises(CorruptedContainer):
        apply_weights_delta(bytes(delta), before)


def test_models_of_different_layouts_have_no_delta() -> None:
    other = ManyRowsLayout(digest=b"another model's.")

    with pytest.raises(WrongLayout):
        encode_weights_delta(encode_weights(BEFORE, LAYOUT), encode_weights(BEFORE, other))


def test_a_model_without_rows_has_no_delta_and_no_content_digest() -> None:
    exact, rows = encode_weights(BEFORE, LAYOUT, precision="float32"), encode_weights(BEFORE, LAYOUT)

    with pytest.raises(WrongSpec):
        encode_weights_delta(exact, rows)
    with pytest.raises(WrongSpec):
        content_digest(exact)


def test_a_model_of_few_bits_has_no_delta_and_no_content_digest() -> None:
    few = encode(BEFORE, LAYOUT, DenseSpec(bits=4), seed=0)

    with pytest.raises(WrongSpec, match="bits 4; a download is dense with 8"):
        content_digest(few)
    eight = encode(BEFORE, LAYOUT, DenseSpec(bits=8), seed=0)
    assert content_digest(eight) == content_digest(encode_weights(BEFORE, LAYOUT))


def test_a_base_whose_frame_hides_its_size_is_malformed() -> None:
    fields = msgpack.unpackb(encode_weights(BEFORE, LAYOUT))
    numbers = zstandard.ZstdDecompressor().decompress(fields["streams"][0])
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(numbers)
    base = Container(fields["spec"], fields["layout"], fields["scales"], (hidden,)).to_bytes()

    with pytest.raises(MalformedContainer, match="does not state its size"):
        content_digest(base)


def test_a_base_that_is_damaged_ends_in_an_error_of_the_family() -> None:
    before, after = encode_weights(BEFORE, LAYOUT), encode_weights(stepped(0.05), LAYOUT)

    with pytest.raises(CodecError):
        apply_weights_delta(encode_weights_delta(after, before), before[:-1])


def test_every_limit_holds_at_its_own_value_and_not_one_below() -> None:
    before, after = encode_weights(BEFORE, LAYOUT), encode_weights(stepped(0.05), LAYOUT)
    delta = encode_weights_delta(after, before)
    enough = DecodeLimits(max_container_bytes=len(before), max_parameters=LAYOUT.size)

    apply_weights_delta(delta, before, limits=enough)
    for limits in (
        DecodeLimits(max_container_bytes=len(delta) - 1),
        DecodeLimits(max_container_bytes=len(before), max_parameters=LAYOUT.size - 1),
    ):
        with pytest.raises(LimitExceeded):
            apply_weights_delta(delta, before, limits=limits)


def forged(delta: bytes, **changed: object) -> bytes:
    """A delta with other fields, and the digest of its own content."""
    fields = {name: value for name, value in msgpack.unpackb(delta).items() if name != "digest"} | changed
    digest = hashlib.blake2b(msgpack.packb(fields), digest_size=8).digest()
    return bytes(msgpack.packb(fields | {"digest": digest}))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"v": 0}, "version is not 1"),
        ({"v": 2}, "version is not 1"),
        ({"v": 1.0}, "version is not 1"),
        ({"streams": [b""] * 5}, "has 6 streams"),
        ({"streams": [b""] * 7}, "has 6 streams"),
        ({"streams": 6}, "has 6 streams"),
        ({"streams": b"stream"}, "has 6 streams"),
        ({"streams": dict.fromkeys("abcdef")}, "has 6 streams"),
        ({"layout": "l" * 16}, "must be binary"),
        ({"result": 1}, "must be binary"),
        ({"streams": [b""] * 5 + ["stream"]}, "must be binary"),
        ({"layout": b"l" * 15}, "another length"),
        ({"layout": b"l" * 17}, "another length"),
        ({"result": b"r" * 31}, "another length"),
        ({"result": b"r" * 33}, "another length"),
    ],
)
def test_a_delta_with_a_field_of_another_kind_says_which(changed: dict[str, object], says: str) -> None:
    before = encode_weights(BEFORE, LAYOUT)
    delta = encode_weights_delta(before, before)
    assert forged(delta) == delta

    with pytest.raises(MalformedContainer, match=says):
        apply_weights_delta(forged(delta, **changed), before)


@pytest.mark.parametrize("digest", [b"", b"d" * 7, b"d" * 8])
def test_another_digest_is_damage(digest: bytes) -> None:
    before = encode_weights(BEFORE, LAYOUT)
    fields = msgpack.unpackb(encode_weights_delta(before, before))

    with pytest.raises(CorruptedContainer):
        apply_weights_delta(msgpack.packb(fields | {"digest": digest}), before)


def model(scales: list[float], numbers: list[int]) -> bytes:
    return RowWeights(
        b"a small model's.", np.array(scales, np.float32), np.array(numbers, np.int8)
    ).to_container()


@pytest.mark.parametrize(
    ("scales", "numbers"), [([0.5], [1, 2, 3, 4]), ([0.5, 0.5, 0.5], [1, 2, 3, 4]), ([0.5, 0.5], [1, 2, 3])]
)
def test_models_with_other_numbers_of_scales_or_values_have_no_delta(
    scales: list[float], numbers: list[int]
) -> None:
    with pytest.raises(WrongLayout, match="laid out otherwise"):
        encode_weights_delta(model(scales, numbers), model([0.5, 0.5], [1, 2, 3, 4]))


@pytest.mark.parametrize("difference", [1, 2, 3, 127, 128, -1, -2, -127])
def test_a_difference_of_any_size_is_exact(difference: int) -> None:
    before = model([0.5], [-64, 5])
    after = model([0.5], [-64 + difference if difference > 0 else 64 + difference, 5])
    before = before if difference > 0 else model([0.5], [64, 5])

    assert apply_weights_delta(encode_weights_delta(after, before), before) == after


def test_scales_may_move_from_the_smallest_to_the_largest_and_back() -> None:
    largest = float(np.finfo(np.float32).max)
    one, other = model([0.0, largest, 1e-45], [1, 2, 3]), model([largest, 0.0, 1e-45], [1, 2, 3])

    for before, after in ((one, other), (other, one), (one, one)):
        assert apply_weights_delta(encode_weights_delta(after, before), before) == after
