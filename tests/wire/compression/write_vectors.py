"""Writes the golden vectors that are missing; never touches one that is there.

python -m tests.wire.compression.write_vectors
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from zstandard import ZstdCompressor

from keyflock_compression import CodecSpec, encode
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
}


def malformed() -> Iterator[tuple[str, bytes, str, str]]:
    """Name, bytes, the error's code, and what is wrong."""
    spec = CodecSpec.from_wire(SPECS["deadzone_none"]).to_wire()
    step = np.ones(1, "<f4").tobytes()
    good = encode(np.array(DELTA, np.float32), LAYOUT, CodecSpec.from_wire(SPECS["dense_none"]), seed=0)

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
    dense = CodecSpec.from_wire(SPECS["dense_none"]).to_wire()
    huge = Container(dense, LAYOUT.digest, np.full(3, 3e38, "<f4").tobytes(), (b"\x02" * 10,)).to_bytes()
    yield "dense_overflow", huge, "non_finite", "twice a row's scale is infinite"
    yield from malformed_rows(step, nan)


def malformed_rows(step: bytes, nan: bytes) -> Iterator[tuple[str, bytes, str, str]]:
    """The same of ``deadzone_rows``: four cells, of 2, 2, 2 and 4 values."""
    none = CodecSpec.from_wire(SPECS["deadzone_rows_none"]).to_wire()
    zstd = CodecSpec.from_wire(SPECS["deadzone_rows_zstd"]).to_wire()
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
    topk = CodecSpec.from_wire(SPECS["topk_none"]).to_wire()
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


def main() -> None:
    """Write what is missing."""
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, wire in SPECS.items():
        data = encode(np.array(DELTA, np.float32), LAYOUT, CodecSpec.from_wire(wire), seed=0)
        settings = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in wire.items())
        _write(name, data, f"delta = {list(DELTA)}\n\n[spec]\n{settings}")
    for name, data, code, what in malformed():
        _write(f"malformed_{name}", data, f'error = "{code}"\nwhat = "{what}"\n')


def _write(name: str, data: bytes, meaning: str) -> None:
    tomllib.loads(meaning)
    for path, content in ((VECTORS / f"{name}.bin", data), (VECTORS / f"{name}.toml", meaning.encode())):
        if not path.exists():
            path.write_bytes(content)


if __name__ == "__main__":
    main()
