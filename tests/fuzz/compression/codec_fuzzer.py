"""A mutating fuzzer for containers: whatever the bytes, decoding returns an update or raises a CodecError.

    make fuzz-codec N=2000000

It begins with real containers of every codec and changes them in two ways: blindly, bytes of the whole
(flips, cuts, lies about lengths, one container's head on another's tail), which the digest mostly catches;
and with knowledge, a stream, a scale or a setting, signed again, so that what is behind the digest is tried.
An input is a function of the seed and its number, so a finding can be had again.

tests/unit/compression/test_codec_fuzzer.py plants bugs that it must find.
"""

import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import msgpack
import numpy as np
import zstandard
from tests.fuzz.compression.command import Finding, run

from keyflock_compression import (
    CodecError,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DecodedUpdate,
    DenseSpec,
    Float32Spec,
    Layout,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    decode,
    encode,
)
from keyflock_compression.container import Container, parse, read_expected, read_spec
from keyflock_compression.limits import DEFAULT_LIMITS

Decode = Callable[[bytes, Layout], DecodedUpdate]

#: Maximum processor time for an input of a few kilobytes.
MAX_S: Final = 1.0
#: The memory of one input in so many is measured, because measuring takes longer than decoding.
MEMORY_EVERY: Final = 64
LIES: Final = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xc6\xff\xff\xff\xff",
)
#: Values that a mutation gives to a setting.
SETTINGS: Final[tuple[object, ...]] = (
    *("deadzone_rows", "deadzone", "dense", "float32", "none", "zstd", "stochastic"),
    *("randmask", "rowset", "rotated", "exact", "sampled"),
    *(0, 1, 2, 4, 8, 16, -1, 2**31, 2**63, 0.5, 1e-30, 1e-300, 1000.0, float("nan"), None, True, b"", [], {}),
)
SPECS: Final = (
    DeadzoneRowsSpec(step_rms=1.0, entropy="none"),
    DeadzoneRowsSpec(step_rms=0.001, zstd_level=1),
    DeadzoneSpec(step_rms=0.001, entropy="none"),
    DeadzoneSpec(step_rms=1.0),
    TopkSpec(keep_ratio=0.2, entropy="none"),
    DenseSpec(entropy="none"),
    DenseSpec(),
    Float32Spec(entropy="none"),
    DenseSpec(bits=4, entropy="none"),
    DenseSpec(bits=2),
    DenseSpec(bits=1, entropy="none"),
    RandmaskSpec(keep_ratio=0.1, entropy="none"),
    RandmaskSpec(keep_ratio=1.0),
    RowsetSpec(bits=2, step=1.0, row_start=1, row_count=2, entropy="none"),
    RowsetSpec(bits=16, step=1e-3, row_start=0, row_count=3),
    RotatedSpec(bits=1, entropy="none"),
    RotatedSpec(bits=4),
)


@dataclass(frozen=True)
class FuzzLayout:
    """A layout with rows of every kind: read by rows and by columns, longer than a cell, of one value."""

    names: tuple[str, ...] = ("by_columns", "by_rows", "cut", "one")
    shapes: tuple[tuple[int, ...], ...] = ((3, 20), (14, 5), (140,), (1,))
    offsets: tuple[int, ...] = (0, 60, 130, 270)
    size: int = 271
    digest: bytes = b"the fuzzed ones."


LAYOUT: Final = FuzzLayout()
assert sum(prod(shape) for shape in LAYOUT.shapes) == LAYOUT.size


def fuzz(
    inputs: int, *, seed: int = 0, decoder: Decode = decode, outcomes: Counter[str] | None = None
) -> Finding | None:
    """Return the first input that breaks a promise, or None.

    Args:
        inputs: The number of inputs.
        seed: The seed of the inputs.
        decoder: The decoder under test.
        outcomes: Counts the outcomes of the inputs: an error's code, or ``update``.
    """
    seeds = [encode(delta, LAYOUT, spec, seed=0) for spec in SPECS for delta in _deltas()]
    for number in range(inputs):
        data = mutated(seeds, random.Random(f"{seed}/{number}"))
        broken, outcome = _tried(data, decoder, watches_memory=number % MEMORY_EVERY == 0)
        if broken:
            return Finding(number, data, outcome)
        if outcomes is not None:
            outcomes[outcome] += 1
    return None


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """Return one mutated input."""
    if rng.random() < 0.25:
        return changed_blindly(rng.choice(seeds), rng.choice(seeds), rng)
    fields = msgpack.unpackb(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _knowingly(fields, rng)
    try:
        return Container(
            fields["spec"], fields["layout"], fields["scales"], tuple(fields["streams"])
        ).to_bytes()
    except (ValueError, OverflowError):  # a number that msgpack cannot say
        return bytes(msgpack.packb(fields, default=str))


def _tried(data: bytes, decoder: Decode, *, watches_memory: bool) -> tuple[bool, str]:
    if watches_memory:
        tracemalloc.start()
    began_s = time.process_time()
    try:
        problem = _problem_of_the_short_way(data)
        problem, outcome = problem or _problem_of(decoder(data, LAYOUT)), "update"
    except CodecError as error:
        problem, outcome = "", error.code
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        problem, outcome = f"{type(error).__name__}: {error}", ""
    took_s = time.process_time() - began_s
    if watches_memory:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak_bytes > 4 * len(data) + 24 * LAYOUT.size + 1_000_000:
            problem = f"{peak_bytes} bytes of memory for an input of {len(data)}"
    if took_s > MAX_S:
        problem = f"{took_s:.1f} s of processor time"
    return bool(problem), problem or outcome


def _problem_of_the_short_way(data: bytes) -> str:
    """Return what ``read_expected`` takes and ``parse`` does not, or reads otherwise."""
    for spec in SPECS:
        found = read_expected(data, spec, LAYOUT.digest, DEFAULT_LIMITS)
        if found is None:
            continue
        try:
            container = parse(data, DEFAULT_LIMITS)
            stated = (read_spec(container), container.layout, container.scales, container.streams)
        except CodecError as error:
            return f"the short way takes what parsing refuses: {error}"
        if stated != (spec, LAYOUT.digest, *found):
            return "the short way reads another container"
    return ""


def _problem_of(update: DecodedUpdate) -> str:
    dense, added = update.dense(), np.zeros(LAYOUT.size, np.float32)
    if dense.shape != (LAYOUT.size,) or not np.isfinite(dense).all():
        return "an update of another size, or not finite"
    update.add_to(added, 1.0)
    if not np.array_equal(added, dense):
        return "what is added is not what is said"
    return ""


def changed_blindly(one: bytes, other: bytes, rng: random.Random) -> bytes:
    """Make one change without knowledge of the content."""
    data, place = bytearray(one), rng.randrange(len(one))
    match rng.randrange(5):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            del data[place:]
        case 2:
            lie = rng.choice(LIES)
            data[place : place + len(lie)] = lie
        case 3:
            data[place:] = other[rng.randrange(len(other)) :]
        case _:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


def _knowingly(fields: dict[str, Any], rng: random.Random) -> None:
    streams, chance = fields["streams"], rng.random()
    if chance < 0.75 and streams:
        at = rng.randrange(len(streams))
        streams[at] = changed_stream(streams[at], fields["spec"].get("entropy") == "zstd", rng)
    elif chance < 0.85:
        fields["scales"] = _bytes(fields["scales"], rng)
    elif chance < 0.92:
        name = rng.choice([*fields["spec"], "bits", "step", "row_count"])
        fields["spec"][name] = rng.choice(SETTINGS)
    elif chance < 0.96:
        streams.insert(rng.randrange(len(streams) + 1), rng.randbytes(rng.randrange(9)))
    elif streams:
        del streams[rng.randrange(len(streams))]


def changed_stream(stream: bytes, is_packed: bool, rng: random.Random) -> bytes:
    """Change a stream's content, or sometimes its frame."""
    if not is_packed or rng.random() < 0.3:
        return _bytes(stream, rng)
    try:
        if zstandard.frame_content_size(stream) > 1_000_000:  # a lie of an earlier change, kept as it is
            return stream
        content = zstandard.ZstdDecompressor().decompress(stream, max_output_size=1_000_000)
    except zstandard.ZstdError:  # it was changed before
        return _bytes(stream, rng)
    if rng.random() < 0.05:
        content = bytes(rng.choice((1_000, 100_000)))
    return zstandard.ZstdCompressor(write_content_size=rng.random() < 0.95).compress(_bytes(content, rng))


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    place = rng.randrange(len(data) + 1)
    match rng.randrange(4):
        case 0 if data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[place % len(data)] = rng.choice((0, 1, 127, 128, 254, 255))
        case 2:
            del data[place : place + rng.randrange(1, 5)]
        case _:
            data[place:place] = rng.randbytes(rng.randrange(1, 5))
    return bytes(data)


def _deltas() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(LAYOUT.size) * np.exp(3 * rng.standard_normal(LAYOUT.size))
    yield values.astype(np.float32)
    yield np.where(rng.random(LAYOUT.size) < 0.05, values, 0).astype(np.float32)
    yield np.zeros(LAYOUT.size, np.float32)


if __name__ == "__main__":
    run(__doc__, lambda inputs, seed, outcomes: fuzz(inputs, seed=seed, outcomes=outcomes))
