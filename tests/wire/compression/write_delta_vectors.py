"""Writes the golden vectors of deltas between models that are missing; never touches one that is there.

python -m tests.wire.compression.write_delta_vectors
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgpack
import numpy as np
from tests.wire.compression.vector_files import write_malformed, write_vector
from zstandard import ZstdCompressor

from keyflock_compression import encode_weights_delta
from keyflock_compression.row_weights import RowWeights

VECTORS: Final = Path(__file__).resolve().parents[1] / "vectors" / "weights_delta"
LAYOUT_DIGEST: Final = bytes(range(16))
#: Two rows of three, one of four, as in the vectors beside these.
BASE: Final = ((0.5, 0.25, 0.0), (0, 127, -127, 3, 127, -1, 0, 0, 0, 0))
MODELS: Final = {
    "unchanged": BASE,
    "one_number": ((0.5, 0.25, 0.0), (0, 126, -127, 3, 127, -1, 0, 0, 0, 0)),
    "numbers_and_scales": ((0.5, 0.26, 1e-3), (1, 127, 127, 3, -127, -1, 0, 2, -128, 127)),
    "all_zero": ((0.0, 0.0, 0.0), (0,) * 10),
}


def rows(scales: tuple[float, ...], whole: tuple[int, ...]) -> RowWeights:
    """A model of three rows and ten parameters."""
    return RowWeights(LAYOUT_DIGEST, np.array(scales, np.float32), np.array(whole, np.int8))


def malformed() -> Iterator[tuple[str, bytes, str, str]]:
    """Name, bytes, the error's code, and what is wrong."""
    base = rows(*BASE)
    good = encode_weights_delta(rows(*MODELS["one_number"]).to_container(), base.to_container())
    frame = ZstdCompressor(level=3).compress
    #: The second number, 127, becomes 126.
    one = (b"\x01", b"\x00", b"\x02", b"\x01", b"", bytes(12))
    result = msgpack.unpackb(good)["result"]

    def forged(*streams: bytes, **changed: object) -> bytes:
        fields = {
            "v": 1,
            "layout": LAYOUT_DIGEST,
            "result": result,
            "streams": [frame(stream) for stream in streams],
        } | changed
        digest = hashlib.blake2b(msgpack.packb(fields), digest_size=8).digest()
        return bytes(msgpack.packb(fields | {"digest": digest}))

    def with_scales(*bits: int) -> bytes:
        whole = base.quantized.tobytes()
        scales = np.array(bits, "<u4")
        signed = (scales - base.scales.view(np.uint32)).view(np.int32).tolist()
        folded = [2 * one if one >= 0 else -2 * one - 1 for one in signed]
        planes = np.array(folded, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes()
        digest = hashlib.sha256(LAYOUT_DIGEST + scales.tobytes() + whole).digest()
        return forged(b"\x00", b"", b"", b"", b"", planes, result=digest)

    bad = "malformed"
    yield "empty", b"", bad, "no bytes"
    yield "truncated", good[:-1], bad, "the last byte is missing"
    yield "trailing", good + b"\0", bad, "a byte too many"
    yield (
        "flipped",
        bytes([*good[:60], good[60] ^ 1, *good[61:]]),
        "corrupted",
        "a bit of the layout or result",
    )
    yield "model", base.to_container(), bad, "a model instead of a delta"
    yield "version_2", forged(*one, v=2), bad, "another version"
    yield "version_true", forged(*one, v=True), bad, "true is no version"
    yield "short_result", forged(*one, result=bytes(16)), bad, "half a content digest"
    yield "other_layout", forged(*one, layout=bytes(16)), "wrong_layout", "another model's"
    yield "other_result", forged(*one, result=bytes(32)), "wrong_base", "it leads to something else"
    yield "five_streams", forged(*one[:5]), bad, "a stream is missing"
    yield "second_cell", forged(b"\x02", *one[1:]), bad, "a bit behind the last cell"
    yield "too_many", forged(b"\x01", b"\x0a", bytes(11), bytes(2), b"", bytes(12)), bad, "11 of 10 numbers"
    yield (
        "long_gap",
        forged(b"\x01", b"\x00", b"\x14", b"\x00", b"", bytes(12)),
        bad,
        "the eleventh of ten places",
    )
    yield "no_sign", forged(*one[:3], b"", b"", bytes(12)), bad, "a number without its sign"
    yield "second_sign", forged(*one[:3], b"\x02", b"", bytes(12)), bad, "a sign behind the last number"
    yield (
        "no_magnitude",
        forged(b"\x01", b"\x00", b"\x03", b"\x01", b"", bytes(12)),
        bad,
        "a large number without its magnitude",
    )
    yield (
        "large_magnitude",
        forged(b"\x01", b"\x00", b"\x03", b"\x01", b"\x7f", bytes(12)),
        bad,
        "a difference of 129",
    )
    yield "lonely_magnitude", forged(*one[:4], b"\0", bytes(12)), bad, "a magnitude that no number has"
    hidden = ZstdCompressor(write_content_size=False).compress(bytes(12))
    packed = [frame(stream) for stream in one[:5]]
    yield "hidden_size", forged(streams=[*packed, hidden]), bad, "a frame that does not state its size"
    fields = msgpack.unpackb(good)
    turned = {name: fields[name] for name in ("layout", "v", "result", "streams", "digest")}
    yield "other_order", bytes(msgpack.packb(turned)), bad, "the fields in another order"
    long = good.replace(b"\xc4\x08" + fields["digest"], b"\xc5\x00\x08" + fields["digest"])
    yield "digest_long_form", long, bad, "the digest's length in two bytes"
    yield "long_scales", forged(*one[:5], bytes(16)), bad, "the scales of four rows of three"
    yield "short_scales", forged(*one[:5], bytes(8)), bad, "the scales of two rows of three"
    yield "negative_scale", with_scales(0xBF000000, 0x3E800000, 0), bad, "a scale of -0.5"
    yield "nan_scale", with_scales(0x7FC00000, 0x3E800000, 0), "non_finite", "a scale that is NaN"
    yield "bomb", forged(bytes(1_000_000), *one[1:]), bad, "a frame of a million bytes where one is expected"


def main() -> None:
    """Write what is missing."""
    base = rows(*BASE).to_container()
    for name, (scales, whole) in MODELS.items():
        after = rows(scales, whole)
        meaning = f"base_scales = {list(BASE[0])}\nbase_whole = {list(BASE[1])}\n"
        meaning += f"scales = {list(scales)}\nwhole = {list(whole)}\n"
        meaning += f'content_digest = "{after.content_digest.hex()}"\n'
        write_vector(VECTORS, name, encode_weights_delta(after.to_container(), base), meaning)
    for name, data, code, what in malformed():
        write_malformed(VECTORS, name, data, code, what)


if __name__ == "__main__":
    main()
