"""The same fuzzer for deltas between models: any bytes give the model that they name, or an error.

    make fuzz-codec N=2000000

tests/unit/compression/test_weights_delta_fuzzer.py plants bugs that it must find.
"""

import hashlib
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgpack
import numpy as np
from tests.fuzz.compression.codec_fuzzer import (
    MAX_S,
    MEMORY_EVERY,
    changed_blindly,
    changed_stream,
)
from tests.fuzz.compression.command import Finding, run

from keyflock_compression import CodecError, apply_weights_delta, encode_weights_delta
from keyflock_compression.row_weights import RowWeights, read_row_weights

Apply = Callable[[bytes, bytes], bytes]

_SIZE: Final = 700
_FIELDS: Final = ("v", "layout", "result", "streams")
_VALUES: Final[tuple[object, ...]] = (0, -1, 2, True, None, b"", bytes(16), bytes(32), "1", [], {}, 0.5)


def _model(rng: np.random.Generator, share: float) -> RowWeights:
    whole = np.where(rng.random(_SIZE) < share, rng.integers(-128, 128, _SIZE), 0)
    return RowWeights(b"the fuzzed ones.", rng.random(9).astype(np.float32), whole.astype(np.int8))


_RNG: Final = np.random.default_rng(0)
BASE: Final = _model(_RNG, 1.0)
_BODY: Final = BASE.to_container()
SEEDS: Final = tuple(
    encode_weights_delta(
        RowWeights(BASE.layout, scales, BASE.quantized + _model(_RNG, share).quantized).to_container(), _BODY
    )
    for share in (0.0, 0.01, 0.3, 1.0)
    for scales in (BASE.scales, _model(_RNG, 0.0).scales)
)


def fuzz(
    inputs: int, *, seed: int = 0, apply: Apply = apply_weights_delta, outcomes: Counter[str] | None = None
) -> Finding | None:
    """Return the first input that breaks a promise, or None; arguments as for the codecs' ``fuzz``."""
    for number in range(inputs):
        data = mutated(random.Random(f"{seed}/{number}"))
        broken, outcome = _tried(data, apply, watches_memory=number % MEMORY_EVERY == 0)
        if broken:
            return Finding(number, data, outcome)
        if outcomes is not None:
            outcomes[outcome] += 1
    return None


def mutated(rng: random.Random) -> bytes:
    """Return one input, changed without knowledge, or with knowledge and signed again."""
    if rng.random() < 0.2:
        return changed_blindly(rng.choice(SEEDS), rng.choice(SEEDS), rng)
    fields: dict[str, Any] = msgpack.unpackb(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 2, 3))):
        streams = fields["streams"]
        if not isinstance(streams, list) or rng.random() < 0.06:
            fields[rng.choice(_FIELDS)] = rng.choice(_VALUES)
        elif rng.random() < 0.06:
            streams.insert(rng.randrange(len(streams) + 1), rng.randbytes(rng.randrange(9)))
        elif streams:
            at = rng.randrange(len(streams))
            streams[at] = changed_stream(streams[at], True, rng)
    signed = msgpack.packb({name: fields[name] for name in _FIELDS})
    fields["digest"] = hashlib.blake2b(signed, digest_size=8).digest()
    return bytes(msgpack.packb(fields))


def _tried(data: bytes, apply: Apply, *, watches_memory: bool) -> tuple[bool, str]:
    if watches_memory:
        tracemalloc.start()
    began_s, problem = time.process_time(), ""
    try:
        made, outcome = read_row_weights(apply(data, _BODY)), "model"
        if made.content_digest != msgpack.unpackb(data)["result"]:
            problem = "another model than the delta names"
        elif not np.isfinite(made.scales).all() or (made.scales < 0).any():
            problem = "a scale that no model has"
    except CodecError as error:
        outcome = error.code
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        problem, outcome = f"{type(error).__name__}: {error}", ""
    took_s = time.process_time() - began_s
    if watches_memory:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak_bytes > 4 * len(data) + 24 * _SIZE + 1_000_000:
            problem = f"{peak_bytes} bytes of memory for an input of {len(data)}"
    if took_s > MAX_S:
        problem = f"{took_s:.1f} s of processor time"
    return bool(problem), problem or outcome


if __name__ == "__main__":
    run(__doc__, lambda inputs, seed, outcomes: fuzz(inputs, seed=seed, outcomes=outcomes))
