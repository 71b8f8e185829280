"""Writes the golden vectors that are missing; never touches one that is there.

python -m tests.wire.compression.write_vectors
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from tests.wire.compression.vector_files import write_malformed, write_vector
from zstandard import ZstdCompressor

from keyflock_compression import encode, parse_spec
from keyflock_compression.container import Container

VECTORS: Final = Path(__file__).resolve().parents[1] / "vectors" / "compression"
DELTA: Final = (0.0, 0.5, -1.0, 0.25, 0.0, 0.0, 300.0, -0.125, 0.0625, -2.0)


@dataclass(frozen=True)
class VectorLayout:
    """The layout of all vectors: a 2 x 3 matrix and a vector of 4."""

    names: tuple[str, ...] = ("kernel", "bias")
    shapes: tuple[tuple[int, ...], ...] = ((2, 3), (4,))
    offsets: tuple[int, ...] = (0, 6)
    size: int = 10
    digest: bytes = bytes(range(16))


LAYOUT: Final = VectorLayout()
#: The kernel's second row, and the bias, which has no row per word.
ROWS: Final = {"row_start": 1, "row_count": 1}
SPECS: Final[dict[str, dict[str, Any]]] = {
    "float32_none": {"codec": "float32", "entropy": "none"},
    "float32_zstd": {"codec": "float32"},
    "dense_none": {"codec": "dense", "entropy": "none"},
    "dense_zstd": {"codec": "dense"},
    "deadzone_none": {"codec": "deadzone", "entropy": "none", "step_rms": 0.005},
    "deadzone_zstd": {"codec": "deadzone", "step_rms": 0.005},
    "deadzone_target": {"codec": "deadzone", "target_nmse": 0.1},
    "deadzone_rows_none": {"codec": "deadzone_rows", "entropy": "none", "step_rms": 0.00148},
    "deadzone_rows_zstd": {"codec": "deadzone_rows", "step_rms": 0.005},
    "deadzone_rows_budget": {"codec": "deadzone_rows", "entropy": "none", "budget_bytes": 512},
    "topk_none": {"codec": "topk", "entropy": "none", "keep_ratio": 0.5},
    "topk_zstd": {"codec": "topk", "keep_ratio": 1.0},
    "deadzone_rows_target": {"codec": "deadzone_rows", "target_nmse": 0.1, "zstd_level": 1},
    "topk_sampled": {"codec": "topk", "entropy": "none", "keep_ratio": 0.3, "selection": "sampled"},
    "dense_4bit_none": {"codec": "dense", "entropy": "none", "bits": 4},
    "dense_2bit_none": {"codec": "dense", "entropy": "none", "bits": 2},
    "dense_1bit_none": {"codec": "dense", "entropy": "none", "bits": 1},
    "dense_1bit_zstd": {"codec": "dense", "bits": 1},
    "randmask_none": {"codec": "randmask", "entropy": "none", "keep_ratio": 0.3},
    "randmask_zstd": {"codec": "randmask", "keep_ratio": 1.0},
    "rowset_16bit_none": {"codec": "rowset", "entropy": "none", "bits": 16, "step": 0.0625} | ROWS,
    "rowset_8bit_zstd": {"codec": "rowset", "bits": 8, "step": 0.25} | ROWS,
    "rowset_4bit_none": {"codec": "rowset", "entropy": "none", "bits": 4, "step": 0.1} | ROWS,
    "rowset_2bit_none": {"codec": "rowset", "entropy": "none", "bits": 2, "step": 0.5} | ROWS,
    "rotated_4bit_none": {"codec": "rotated", "entropy": "none", "bits": 4},
    "rotated_2bit_zstd": {"codec": "rotated", "bits": 2},
    "rotated_1bit_none": {"codec": "rotated", "entropy": "none", "bits": 1},
}
#: Other than 0; all 64 bits count.
SEEDS: Final = {"randmask_none": 0x0123456789ABCDEF, "rotated_4bit_none": 0x7EDCBA9876543210}


def malformed() -> Iterator[tuple[str, bytes, str, str]]:
    """Name, bytes, the error's code, and what is wrong."""
    spec = parse_spec(SPECS["deadzone_none"]).to_wire()
    step = np.ones(1, "<f4").tobytes()
    good = encode(np.array(DELTA, np.float32), LAYOUT, parse_spec(SPECS["dense_none"]), seed=0)

    def forged(*streams: bytes, layout: bytes = LAYOUT.digest, scales: bytes = step) -> bytes:
        return Container(spec, layout, scales, streams).to_bytes()

    yield "empty", b"", "malformed", "no bytes"
    yield "truncated", good[:-1], "malformed", "the last byte is missing"
    yield "trailing", good + b"\x00", "malformed", "a byte follows the map"
    yield "flipped", good[:-20] + bytes([good[-20] ^ 1]) + good[-19:], "corrupted", "one bit of a stream"
    yield "wrong_layout", forged(bytes(10), b"", layout=bytes(16)), "wrong_layout", "another layout's digest"
    yield "short_stream", forged(bytes(9), b""), "malformed", "a value is missing"
    yield "lonely_escape", forged(b"\x80" + bytes(9), b""), "malformed", "-128 without its outlier"
    yield "small_outlier", forged(b"\x80" + bytes(9), b"\x7f\0\0\0"), "malformed", "127 as an outlier"
    nan = np.full(1, np.nan, "<f4").tobytes()
    yield "nan_step", forged(bytes(10), b"", scales=nan), "non_finite", "the step is NaN"
    dense = parse_spec(SPECS["dense_none"]).to_wire()
    huge = Container(dense, LAYOUT.digest, np.full(3, 3e38, "<f4").tobytes(), (b"\x02" * 10,)).to_bytes()
    yield "dense_overflow", huge, "non_finite", "twice a row's scale is infinite"
    negative = np.full(1, -1, "<f4").tobytes()
    yield "negative_step", forged(bytes(10), b"", scales=negative), "malformed", "the step is negative"
    yield (
        "dense_two_scales",
        Container(dense, LAYOUT.digest, step * 2, (bytes(10),)).to_bytes(),
        "malformed",
        ("two scales of three rows"),
    )
    exact = parse_spec(SPECS["float32_none"]).to_wire()
    values = Container(exact, LAYOUT.digest, b"", (nan * 10,)).to_bytes()
    yield "float32_nan", values, "non_finite", "a value is NaN"
    fields = msgpack.unpackb(good)
    turned = msgpack.packb(
        {name: fields[name] for name in ("spec", "v", "layout", "scales", "streams", "digest")}
    )
    yield "other_order", turned, "malformed", "the fields in another order"
    yield from malformed_forms(good)
    yield from malformed_zeros()
    yield from malformed_frames(step)
    yield from malformed_rows(step, nan)
    yield from malformed_bits(step)
    yield from malformed_seeded(step, nan)


def malformed_forms(good: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """Forms of the same content that no encoder writes."""
    fields, bad = msgpack.unpackb(good), "malformed"
    spec = dict(reversed(fields["spec"].items()))
    turned = Container(spec, fields["layout"], fields["scales"], tuple(fields["streams"])).to_bytes()
    yield "spec_other_order", turned, bad, "the spec's fields in another order"
    yield "version_float", msgpack.packb(fields | {"v": 1.0}), bad, "the version as a float"
    long = good.replace(b"\xc4\x10" + fields["layout"], b"\xc5\x00\x10" + fields["layout"])
    yield "long_form", long, bad, "the layout's length in two bytes"
    long_digest = good.replace(b"\xc4\x08" + fields["digest"], b"\xc5\x00\x08" + fields["digest"])
    yield "digest_long_form", long_digest, bad, "the digest's length in two bytes"


def malformed_zeros() -> Iterator[tuple[str, bytes, str, str]]:
    """Numbers other than zero whose scale is zero, and a scale of minus zero."""
    bad, zero = "malformed", bytes(4)

    def forged(name: str, *streams: bytes, scales: bytes = zero) -> bytes:
        return Container(parse_spec(SPECS[name]).to_wire(), LAYOUT.digest, scales, streams).to_bytes()

    one = (b"\x01", b"\x00", b"\x00", b"\x00")
    yield "zero_step", forged("deadzone_none", b"\x01" + bytes(9), b""), bad, "a value of step 0"
    escape = forged("deadzone_none", bytes(9) + b"\x80", b"\x80\0\0\0")
    yield "zero_step_outlier", escape, bad, "an outlier of step 0"
    yield "rows_zero_step", forged("deadzone_rows_none", *one, b"", b""), bad, "a value of step 0"
    yield "topk_zero_scale", forged("topk_none", *one), bad, "a value of scale 0"
    yield "randmask_zero_scale", forged("randmask_none", bytes(8), b"\0\0\0\1"), bad, "a value of scale 0"
    rows = np.array([1, 0, 1], "<f4").tobytes()
    second = forged("dense_none", bytes(3) + b"\xff" + bytes(6), scales=rows)
    yield "dense_zero_scale", second, bad, "a value in a row of scale 0"
    yield (
        "dense_1bit_zero_scale",
        forged("dense_1bit_none", b"\x08\0", scales=rows),
        bad,
        "the same in one bit",
    )
    yield (
        "minus_zero_step",
        forged("deadzone_none", bytes(10), b"", scales=b"\0\0\0\x80"),
        bad,
        "a step of -0",
    )


def malformed_frames(step: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """The same of the entropy stage."""
    spec = parse_spec(SPECS["deadzone_zstd"]).to_wire()
    whole, empty = ZstdCompressor().compress(bytes(10)), ZstdCompressor().compress(b"")
    hidden = ZstdCompressor(write_content_size=False).compress(bytes(10))

    def forged(stream: bytes) -> bytes:
        return Container(spec, LAYOUT.digest, step, (stream, empty)).to_bytes()

    yield "frame_hides_size", forged(hidden), "malformed", "a frame that does not state its size"
    yield "frame_trailing", forged(whole + b"\0"), "malformed", "a byte behind a frame"
    yield "frame_truncated", forged(whole[:-1]), "malformed", "a frame's last byte is missing"
    yield "no_frame", forged(bytes(10)), "malformed", "a stream that is no frame"


def malformed_rows(step: bytes, nan: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """The same of ``deadzone_rows``: four cells, of 2, 2, 2 and 4 values."""
    none = parse_spec(SPECS["deadzone_rows_none"]).to_wire()
    zstd = parse_spec(SPECS["deadzone_rows_zstd"]).to_wire()
    frame = ZstdCompressor().compress

    def forged(*streams: bytes, scales: bytes = step, spec: dict[str, object] = none) -> bytes:
        return Container(spec, LAYOUT.digest, scales, streams).to_bytes()

    one = (b"\x01", b"\x00", b"\x00", b"\x00")  # a single 1, at the first place of the first cell
    large = (b"\x01", b"\x00", b"\x01", b"\x00")
    bad, huge = "malformed", np.full(1, 3e38, "<f4").tobytes()
    yield "rows_five_streams", forged(*one, b""), bad, "a stream is missing"
    yield "rows_short_cells", forged(b"", b"", b"", b"", b"", b""), bad, "no bits of cells"
    yield "rows_fifth_cell", forged(b"\x10", *one[1:], b"", b""), bad, "a bit behind the last cell"
    yield "rows_no_count", forged(b"\x03", *one[1:], b"", b""), bad, "two cells in use, one count"
    yield "rows_too_many", forged(b"\x08", b"\xff", bytes(256), bytes(32), b"", b""), bad, "256 of 10 values"
    yield (
        "rows_full_cell",
        forged(b"\x01", b"\x02", bytes(3), b"\0", b"", b""),
        bad,
        "three values in two places",
    )
    yield "rows_long_gap", forged(b"\x01", b"\x00", b"\x04", b"\0", b"", b""), bad, "the third of two places"
    yield "rows_short_gaps", forged(b"\x01", b"\x01", b"\x00", b"\0", b"", b""), bad, "two values, one gap"
    yield "rows_second_sign", forged(*one[:3], b"\x02", b"", b""), bad, "a sign behind the last value"
    yield "rows_no_sign", forged(*one[:3], b"", b"", b""), bad, "a value without its sign"
    yield "rows_no_magnitude", forged(*large, b"", b""), bad, "a large value without its magnitude"
    yield "rows_no_outlier", forged(*large, b"\xff", b""), bad, "255 without its outlier"
    yield "rows_small_outlier", forged(*large, b"\xff", b"\0\1\0\0"), bad, "256 as an outlier"
    yield "rows_large_outlier", forged(*large, b"\xff", b"\1\0\x80\0"), bad, "an outlier beyond 2**23"
    yield "rows_lonely_outlier", forged(*one, b"", b"\1\1\0\0"), bad, "an outlier that no value has"
    yield "rows_nan_step", forged(*one, b"", b"", scales=nan), "non_finite", "the step is NaN"
    yield "rows_overflow", forged(*large, b"\0", b"", scales=huge), "non_finite", "twice the step is infinite"
    topk = parse_spec(SPECS["topk_none"]).to_wire()
    yield "topk_no_level", forged(b"\x01", b"\0", b"\0", b"", spec=topk), bad, "a value without its level"
    yield "topk_long_gap", forged(b"\x01", b"\0", b"\4", b"\0", spec=topk), bad, "the third of two places"
    yield "topk_two_scales", forged(*one, scales=step + step, spec=topk), bad, "two scales"
    bomb = (frame(bytes(1_000_000)), *(frame(b"") for _ in range(5)))
    yield (
        "rows_bomb",
        forged(*bomb, spec=zstd),
        bad,
        "a frame that states 1,000,000 bytes where one is expected",
    )


def malformed_bits(step: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """The same of ``dense`` with few bits, three rows, and ``rowset``, seven values."""

    def forged(name: str, stream: bytes, scales: bytes = step * 3, **changed: object) -> bytes:
        spec = parse_spec(SPECS[name]).to_wire() | changed
        return Container(spec, LAYOUT.digest, scales, (stream,)).to_bytes()

    bad = "malformed"
    yield "dense_4bit_lowest", forged("dense_4bit_none", b"\x08" + bytes(4)), bad, "-8 in four bits"
    yield "dense_4bit_short", forged("dense_4bit_none", bytes(4)), bad, "two values are missing"
    yield "dense_2bit_lowest", forged("dense_2bit_none", b"\0\0\x02"), bad, "-2 in two bits"
    yield "dense_2bit_eleventh", forged("dense_2bit_none", b"\0\0\x10"), bad, "a bit behind the last value"
    yield "dense_1bit_eleventh", forged("dense_1bit_none", b"\0\x04"), bad, "a bit behind the last value"
    yield "dense_3bit", forged("dense_4bit_none", bytes(4), bits=3), bad, "three bits a value"
    yield "rowset_2bit_lowest", forged("rowset_2bit_none", b"\x02\0", b""), bad, "-2 in two bits"
    yield "rowset_2bit_eighth", forged("rowset_2bit_none", b"\0\x40", b""), bad, "a bit behind the last value"
    yield (
        "rowset_16bit_lowest",
        forged("rowset_16bit_none", bytes(12) + b"\0\x80", b""),
        bad,
        "-2**15 in sixteen bits",
    )
    yield "rowset_4bit_lowest", forged("rowset_4bit_none", b"\x08" + bytes(3), b""), bad, "-8 in four bits"
    yield (
        "rowset_8bit_lowest",
        forged("rowset_8bit_zstd", b"\x80" + bytes(6), b"", entropy="none"),
        bad,
        "-128 in eight bits",
    )
    yield "rowset_short", forged("rowset_4bit_none", bytes(3), b""), bad, "a value is missing"
    yield "rowset_scale", forged("rowset_4bit_none", bytes(4), step), bad, "a scale beside the spec's step"
    third = forged("rowset_4bit_none", bytes(4), b"", row_start=2)
    yield "rowset_third_row", third, "invalid_spec", "the third of two rows"


def malformed_seeded(step: bytes, nan: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """The same of ``randmask``, four runs, and ``rotated``, one block of sixteen."""

    def forged(name: str, *streams: bytes, scales: bytes = step, **changed: object) -> bytes:
        spec = parse_spec(SPECS[name]).to_wire() | changed
        return Container(spec, LAYOUT.digest, scales, streams).to_bytes()

    bad, seed, huge = "malformed", bytes(8), np.full(1, 3e38, "<f4").tobytes()
    mask, turned = "randmask_none", "rotated_4bit_none"
    yield "randmask_short_seed", forged(mask, seed[1:], bytes(4)), bad, "a byte of the seed is missing"
    yield "randmask_no_seed", forged(mask, bytes(4)), bad, "the seed is missing"
    yield "randmask_short", forged(mask, seed, bytes(3)), bad, "a value is missing"
    yield "randmask_long", forged(mask, seed, bytes(5)), bad, "a value too many"
    yield "randmask_lowest", forged(mask, seed, b"\x80" + bytes(3)), bad, "-128 in eight bits"
    yield "randmask_two_scales", forged(mask, seed, bytes(4), scales=step + step), bad, "two scales"
    yield "randmask_nan", forged(mask, seed, bytes(4), scales=nan), "non_finite", "the scale is NaN"
    overflow = forged(mask, seed, b"\x02" + bytes(3), scales=huge)
    yield "randmask_overflow", overflow, "non_finite", "twice the scale is infinite"
    yield "randmask_no_ratio", forged(mask, seed, bytes(4), keep_ratio=0.0), bad, "none of the values is kept"
    yield "rotated_short_seed", forged(turned, seed[1:], bytes(8)), bad, "a byte of the seed is missing"
    yield "rotated_short", forged(turned, seed, bytes(7)), bad, "two values are missing"
    yield "rotated_no_values", forged(turned, seed), bad, "a stream is missing"
    yield (
        "rotated_two_scales",
        forged(turned, seed, bytes(8), scales=step + step),
        bad,
        "a scale too many",
    )
    yield "rotated_nan", forged(turned, seed, bytes(8), scales=nan), "non_finite", "the scale is NaN"
    yield "rotated_8bit", forged(turned, seed, bytes(16), bits=8), bad, "eight bits a value"
    overflow = forged(turned, seed, bytes(8), scales=huge)
    yield "rotated_overflow", overflow, "non_finite", "sixteen times the scale is infinite"


def main() -> None:
    """Write what is missing."""
    for name, wire in SPECS.items():
        seed = SEEDS.get(name, 0)
        data = encode(np.array(DELTA, np.float32), LAYOUT, parse_spec(wire), seed=seed)
        seed_line = f"seed = {seed}\n" if seed else ""
        settings = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in wire.items())
        write_vector(VECTORS, name, data, f"delta = {list(DELTA)}\n{seed_line}\n[spec]\n{settings}")
    for name, data, code, what in malformed():
        write_malformed(VECTORS, name, data, code, what)


if __name__ == "__main__":
    main()
