"""The same fuzzer for personal models' states: any bytes are a state, or an error; in little time and memory.

    make fuzz-codec N=2000000

Half of the inputs are real states, changed blindly or in their body and signed again; half are bodies made of
what costs a reader much: lists and maps within each other, and heads that lie about what follows.
tests/unit/compression/test_state.py plants a bug that it must find.
"""

import hashlib
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgpack
import numpy as np
import zstandard
from tests.fuzz.compression.codec_fuzzer import MAX_S, MEMORY_EVERY, changed_blindly, changed_stream
from tests.fuzz.compression.command import Finding, run

from keyflock_compression import CodecError, decode_state, encode_state
from keyflock_compression.state import MAX_BODY_BYTES, MAX_STATE_BYTES

Decode = Callable[[bytes], dict[str, object]]

_RNG: Final = np.random.default_rng(0)
SEEDS: Final = (
    encode_state({}),
    encode_state({"version": 2, "words": {"words": ["one", "zwei", ""], "uses": [2, 3, 0]}, "head": None}),
    encode_state(
        {
            "history": {
                "ids": np.arange(40, dtype=np.int32),
                "bigrams": _RNG.integers(0, 40, (60, 2)).astype(np.int32),
                "bigrams_worth": _RNG.random(60).astype(np.float16),
            },
            "gate": {"is_proved": [True, False], "evidence": np.zeros((2, 3), np.float32)},
        }
    ),
)
#: Heads of values, many of which promise more than follows.
PIECES: Final = (
    *(b"\x90", b"\x91", b"\x9f", b"\xdc\x10\x00", b"\xdd\x00\x00\x10\x00", b"\xdd\xff\xff\xff\xff"),
    *(b"\x80", b"\x81\xa1a", b"\x8f", b"\xde\x00\x40", b"\xdf\xff\xff\xff\xff"),
    *(b"\xa1b", b"\xbf", b"\xd9\xff", b"\xda\x04\x00", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc4\x10", b"\xc6\x00\x0f\xff\xff", b"\xcb\x7f\xf8" + bytes(6), b"\xcf" + b"\xff" * 8),
    *(b"\x00", b"\x7f", b"\xc0", b"\xc1", b"\xc3", b"\xd4\x00\x00"),
    b"\x83\xa1t\xa3<f4\xa1s\x91\x01\xa1b\xc4\x04" + bytes(4),
)
#: How often one piece is repeated.
REPEATS: Final = (1, 1, 2, 16, 4_096, 100_000)


def fuzz(
    inputs: int, *, seed: int = 0, decoder: Decode = decode_state, outcomes: Counter[str] | None = None
) -> Finding | None:
    """Return the first input that breaks a promise, or None; arguments as for the codecs' ``fuzz``."""
    for number in range(inputs):
        data = mutated(random.Random(f"{seed}/{number}"))
        broken, outcome = _tried(data, decoder, watches_memory=number % MEMORY_EVERY == 0)
        if broken:
            return Finding(number, data, outcome)
        if outcomes is not None:
            outcomes[outcome] += 1
    return None


def mutated(rng: random.Random) -> bytes:
    """Return one mutated input."""
    if rng.random() < 0.1:
        return changed_blindly(rng.choice(SEEDS), rng.choice(SEEDS), rng)
    if rng.random() < 0.5:
        return _signed(changed_stream(msgpack.unpackb(rng.choice(SEEDS))["body"], True, rng))
    # Few pieces over and over cost most: a run of one makes a megabyte of a hundred bytes.
    runs = [rng.choice(PIECES) * rng.choice(REPEATS) for _ in range(rng.randrange(1, 9))]
    body = b"".join(runs)
    return _signed(zstandard.ZstdCompressor(level=3).compress(body[:MAX_BODY_BYTES]))


def _signed(body: bytes) -> bytes:
    digest = hashlib.blake2b(body, digest_size=16).digest()
    return bytes(msgpack.packb({"v": 1, "digest": digest, "body": body}))[:MAX_STATE_BYTES]


def _tried(data: bytes, decoder: Decode, *, watches_memory: bool) -> tuple[bool, str]:
    if watches_memory:
        tracemalloc.start()
    began_s, problem = time.process_time(), ""
    try:
        state, outcome = decoder(data), "state"
        problem = "" if type(state) is dict else "no map"
    except CodecError as error:
        outcome = error.code
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        problem, outcome = f"{type(error).__name__}: {error}", ""
    took_s = time.process_time() - began_s
    if watches_memory:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak_bytes > 8 * MAX_BODY_BYTES:
            problem = f"{peak_bytes} bytes of memory for an input of {len(data)}"
    if took_s > MAX_S:
        problem = f"{took_s:.1f} s of processor time"
    return bool(problem), problem or outcome


if __name__ == "__main__":
    run(__doc__, lambda inputs, seed, outcomes: fuzz(inputs, seed=seed, outcomes=outcomes))
