"""Writes the golden vectors that are missing; never touches one that is there.

python -m tests.wire.compression.write_vectors
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

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
