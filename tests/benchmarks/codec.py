"""What a delta costs: bits and error on real deltas, and time against adding a dense vector.

    make bench

Deltas come from phones of the default corpus that train the full-size model from a version 0 pre-trained on
the plays' public third (made in a minute, kept in the user's cache folder). Times are medians of 15.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import zstandard
from tests.benchmarks.page import Section, table, write

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.demo.options import DemoOptions
from keyflock_client_sim.demo.starting_point import starting_point, version_0
from keyflock_client_sim.demo.text import DemoText, read_demo_text
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_compression import (
    DEFAULT_SPEC,
    CodecSpec,
    Layout,
    decode,
    decode_weights,
    encode,
    encode_weights,
    nmse,
)
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.layout import ParamLayout
from keyflock_models.local_training import LocalTrainingConfig, local_train

COHORT: Final = 16
REPEATS: Final = 15
SPECS: Final = {
    "**deadzone_rows, the default**": DEFAULT_SPEC,
    "deadzone_rows, target NMSE 0.05": CodecSpec(codec="deadzone_rows", target_nmse=0.05, zstd_level=1),
    "deadzone_rows, target NMSE 0.2": CodecSpec(codec="deadzone_rows", target_nmse=0.2, zstd_level=1),
    "deadzone, target NMSE 0.16, zstd 9": CodecSpec(target_nmse=0.16, zstd_level=9),
    "deadzone, target NMSE 0.05": CodecSpec(target_nmse=0.05),
    "deadzone, target NMSE 0.2": CodecSpec(target_nmse=0.2),
    "deadzone, step 4 rms": CodecSpec(step_rms=4.0),
    "deadzone, step 4 rms, stochastic": CodecSpec(step_rms=4.0, rounding="stochastic"),
    "deadzone, step 4 rms, zstd 9": CodecSpec(step_rms=4.0, zstd_level=9),
    "dense int8": CodecSpec(codec="dense"),
    "float32": CodecSpec(codec="float32"),
}


def main() -> None:
    """Measure and write the section."""
    options = DemoOptions(size="full")
    checkpoint, text = asyncio.run(beginning(options))
    layout = ParamLayout.of(checkpoint.config)
    start = decode_weights(encode_weights(checkpoint.weights, layout), layout)
    training = LocalTrainingConfig(learning_rate=0.316)
    phones = [rows for rows in text.phones.values() if len(rows) >= 16][:COHORT]
    deltas = [local_train(checkpoint.config, start, rows, training, seed=0).delta for rows in phones]
    running = np.zeros(layout.size, np.float32)
    dense_add_ms = milliseconds(lambda: np.add(running, deltas[0], out=running))
    rows = [row(name, spec, deltas, layout, dense_add_ms) for name, spec in SPECS.items()]
    download = encode_weights(checkpoint.weights, layout)
    header = ("codec", "bits a parameter", "of float32", "NMSE of one", "NMSE of the mean", "encode ms")
    body = f"""{table((*header, "decode and add ms", "ratio to a dense add"), rows)}

{COHORT} phones, {layout.size:,} parameters, one local epoch from a pre-trained version 0. Adding one dense
float32 vector takes {dense_add_ms:.2f} ms in the same run; zstd-3 of the same deltas as int8 with one scale,
{int8_bits(deltas):.2f} bits a parameter. The model's download (int8 rows and zstd) has
{len(download) / 1e6:.2f} MB, {4 * layout.size / len(download):.1f} times less than float32, at an NMSE of
{nmse(checkpoint.weights, decode_weights(download, layout)):.1e}.
"""
    write(Section("codec", "What a delta costs", "make bench", body))
    print(body)


async def beginning(options: DemoOptions) -> tuple[Checkpoint, DemoText]:
    """Version 0 and the phones' text."""
    corpus, parts = read_demo_text(options)
    folder = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=folder / "xla") as pool:
        checkpoint = await version_0(
            starting_point(options, corpus, parts),
            pool,
            cache=folder / "pretrained",
            clock=time.monotonic,
            on_progress=lambda _: None,
        )
    return checkpoint, DemoText.of(parts, checkpoint.vocabulary)


def row(
    name: str, spec: CodecSpec, deltas: list[np.ndarray], layout: Layout, dense_add_ms: float
) -> tuple[str, ...]:
    """One codec on all deltas."""
    containers = [encode(delta, layout, spec, seed=number) for number, delta in enumerate(deltas)]
    running = summed(containers, layout)
    of_mean = nmse(np.sum(deltas, axis=0), running)
    one = statistics.median(
        nmse(delta, decode(container, layout).dense())
        for delta, container in zip(deltas, containers, strict=True)
    )
    encode_ms = milliseconds(lambda: encode(deltas[0], layout, spec, seed=0))
    decode_ms = milliseconds(lambda: decode(containers[0], layout, spec=spec).add_to(running, 2.0))
    bits = 8 * statistics.mean(len(container) for container in containers) / layout.size
    figures = (f"{bits:.3f}", f"{32 / bits:.0f} times", f"{one:.3f}", f"{of_mean:.3f}", f"{encode_ms:.1f}")
    return name, *figures, f"{decode_ms:.2f}", f"{decode_ms / dense_add_ms:.1f}"


def summed(containers: list[bytes], layout: Layout) -> np.ndarray:
    """The sum of what was decoded."""
    result = np.zeros(layout.size, np.float32)
    for container in containers:
        decode(container, layout).add_to(result, 1.0)
    return result


def int8_bits(deltas: list[np.ndarray]) -> float:
    """The plain alternative: one scale, int8, zstd-3."""
    compressor = zstandard.ZstdCompressor(level=3)
    sizes = []
    for delta in deltas:
        whole = np.rint(delta / (np.abs(delta).max() / 127)).astype(np.int8)
        sizes.append(len(compressor.compress(whole.tobytes())))
    return 8 * statistics.mean(sizes) / deltas[0].size


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of one call, after one that does not count."""
    work()
    times = []
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
