"""What a delta costs: bits and error on real deltas beside other methods, and time against a dense add.

    make bench-codec                      about three minutes
    make bench-codec ARGS="--phones 4"    a quick look

Deltas come from phones of the default corpus that train the full-size model from a version 0 pre-trained on
the plays' public third (made in a minute, kept in the user's cache folder). Times are medians; decoding takes
turns with a dense add, so that what else the machine does falls on both. The last line that is printed is the
default codec's, as JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard
from matplotlib import pyplot as plt
from tests.benchmarks.codec_peers import peers
from tests.benchmarks.page import PICTURES, Section, table, write

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
ADDS: Final = 101
ENCODINGS: Final = 9
DEFAULT: Final = "**deadzone_rows, the default**"
SPECS: Final = {
    DEFAULT: DEFAULT_SPEC,
    "deadzone_rows, target NMSE 0.05": CodecSpec(codec="deadzone_rows", target_nmse=0.05, zstd_level=1),
    "deadzone_rows, target NMSE 0.1": CodecSpec(codec="deadzone_rows", target_nmse=0.1, zstd_level=1),
    "deadzone_rows, target NMSE 0.2": CodecSpec(codec="deadzone_rows", target_nmse=0.2, zstd_level=1),
    "deadzone_rows, target NMSE 0.4": CodecSpec(codec="deadzone_rows", target_nmse=0.4, zstd_level=1),
    "deadzone_rows, step 4 rms, stochastic": CodecSpec(
        codec="deadzone_rows", step_rms=4.0, rounding="stochastic", zstd_level=1
    ),
    "deadzone, target NMSE 0.16, zstd 9": CodecSpec(target_nmse=0.16, zstd_level=9),
    "topk, 1 %": CodecSpec(codec="topk", keep_ratio=0.01, zstd_level=1),
    "dense int8": CodecSpec(codec="dense"),
    "float32": CodecSpec(codec="float32"),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One method on all deltas; others' methods have no times."""

    name: str
    bits_per_parameter: float
    nmse_of_one: float
    nmse_of_mean: float
    #: Of the true delta's length, along its direction; 1 is unbiased.
    kept: float
    encode_ms: float | None = None
    decode_ms: float | None = None
    decode_over_dense_add: float | None = None

    def row(self) -> tuple[str, ...]:
        """For the table."""
        times = (self.encode_ms, self.decode_ms, self.decode_over_dense_add)
        return (
            self.name,
            f"{self.bits_per_parameter:.3f}",
            f"{32 / self.bits_per_parameter:.0f} times",
            f"{self.nmse_of_one:.3f}",
            f"{self.nmse_of_mean:.3f}",
            f"{self.kept:.3f}",
            *("" if value is None else f"{value:.2f}" for value in times),
        )


def main() -> None:
    """Measure, write the section and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--phones", type=int, default=COHORT, help=f"deltas; fewer than {COHORT} write nothing"
    )
    phones = parser.parse_args().phones
    options = DemoOptions(size="full")
    checkpoint, text = asyncio.run(beginning(options))
    layout = ParamLayout.of(checkpoint.config)
    start = decode_weights(encode_weights(checkpoint.weights, layout), layout)
    training = LocalTrainingConfig(learning_rate=0.316)
    sequences = [rows for rows in text.phones.values() if len(rows) >= 16][:phones]
    deltas = [local_train(checkpoint.config, start, rows, training, seed=0).delta for rows in sequences]
    running = np.zeros(layout.size, np.float32)
    dense_add_ms = milliseconds(lambda: np.add(running, deltas[0], out=running), ADDS)
    ours = [measured(name, spec, deltas, layout) for name, spec in SPECS.items()]
    others = [of_peer(name, deltas) for name in peers()]
    download = encode_weights(checkpoint.weights, layout)
    header = (
        "codec",
        "bits a parameter",
        "of float32",
        "NMSE of one",
        "NMSE of the mean",
        "kept",
        "encode ms",
    )
    rows = [figures.row() for figures in (*ours, *others)]
    body = f"""{table((*header, "decode and add ms", "ratio to a dense add"), rows)}

![bits and errors](docs/pictures/codec.png)

{phones} phones, {layout.size:,} parameters, one local epoch from a pre-trained version 0. Methods without
times are others', written from their papers (`tests/benchmarks/codec_peers.py`), their bits an entropy rather
than bytes. "Kept" is what is left of a delta along its own direction: phones with different codecs are
biased against each other by the difference (docs/decisions/0032). Adding one dense float32 vector takes
{dense_add_ms:.2f} ms in the same run; zstd-3 of the same deltas as int8 with one scale,
{int8_bits(deltas):.2f} bits a parameter. The model's download (int8 rows and
zstd) has {len(download) / 1e6:.2f} MB, {4 * layout.size / len(download):.1f} times less than float32, at an
NMSE of {nmse(checkpoint.weights, decode_weights(download, layout)):.1e}.
"""
    if phones >= COHORT:
        write(Section("codec", "What a delta costs", "make bench-codec", body))
        draw(ours, others)
    print(body)
    default = ours[0]
    last = {
        "bits_per_parameter": default.bits_per_parameter,
        "cohort_nmse": default.nmse_of_mean,
        "encode_ms": default.encode_ms,
        "decode_over_dense_add": default.decode_over_dense_add,
    }
    print(json.dumps({name: round(value, 4) for name, value in last.items() if value is not None}))


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


def measured(name: str, spec: CodecSpec, deltas: list[np.ndarray], layout: Layout) -> Figures:
    """One codec on all deltas; times on the first phone's."""
    containers = [encode(delta, layout, spec, seed=number) for number, delta in enumerate(deltas)]
    running = summed(containers, layout)
    of_mean = nmse(np.sum(deltas, axis=0), running)
    decoded = [decode(container, layout).dense() for container in containers]
    one = statistics.median(nmse(delta, sent) for delta, sent in zip(deltas, decoded, strict=True))
    dense_ms, decode_ms = in_turn(
        lambda: np.add(running, deltas[0], out=running),
        lambda: decode(containers[0], layout, spec=spec).add_to(running, 2.0),
    )
    return Figures(
        name,
        8 * statistics.mean(len(container) for container in containers) / layout.size,
        one,
        of_mean,
        kept_of(deltas, decoded),
        milliseconds(lambda: encode(deltas[0], layout, spec, seed=0), ENCODINGS),
        decode_ms,
        decode_ms / dense_ms,
    )


def of_peer(name: str, deltas: list[np.ndarray]) -> Figures:
    """Another's method on all deltas."""
    rng = np.random.default_rng(0)
    sent = [peers()[name](delta, rng) for delta in deltas]
    return Figures(
        name,
        statistics.mean(one.bits for one in sent) / deltas[0].size,
        statistics.median(nmse(delta, one.values) for delta, one in zip(deltas, sent, strict=True)),
        nmse(np.sum(deltas, axis=0), np.sum([one.values for one in sent], axis=0)),
        kept_of(deltas, [one.values for one in sent]),
    )


def kept_of(deltas: list[np.ndarray], sent: list[np.ndarray]) -> float:
    """What is left of each delta along its own direction; the phones' mean."""
    return statistics.mean(
        float(np.dot(delta, one)) / float(np.dot(delta, delta))
        for delta, one in zip(deltas, sent, strict=True)
    )


def draw(ours: list[Figures], others: list[Figures]) -> None:
    """Bits against the mean's error, both logarithmic: the nearer to the lower left the better."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for figures, colour in ((ours, "tab:blue"), (others, "tab:gray")):
        for one in figures:
            if one.nmse_of_mean < 1e-3:  # int8 and float32 lie far away
                continue
            point = (one.bits_per_parameter, one.nmse_of_mean)
            axes.plot(*point, "o", color="tab:red" if one.name == DEFAULT else colour)
            axes.annotate(one.name.strip("*"), point, (4, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="bits a parameter", ylabel="NMSE of the mean of 16 phones")
    axes.grid(alpha=0.3)
    figure.savefig(PICTURES / "codec.png", dpi=110)
    plt.close(figure)


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


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call, after one that does not count."""
    work()
    return 1000 * statistics.median(seconds(work) for _ in range(repeats))


def in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median times of two calls that take turns, in milliseconds."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(ADDS)]
    return 1000 * statistics.median(a for a, _ in pairs), 1000 * statistics.median(b for _, b in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
