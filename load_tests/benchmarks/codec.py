"""What a delta costs: bits and error on real deltas beside other methods, and time against a dense add.

    make bench-codec                      about three minutes
    make bench-codec ARGS="--phones 4"    a quick look

Deltas are the reference deltas (``reference_deltas.py``): of phones of the default corpus that train the
full-size model, early, in the middle and late in training. Times are medians; decoding takes turns with a
dense add, so that what else the machine does falls on both. The last line that is printed is the default
codec's, as JSON: the worst of the three stages, times of the late one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import zstandard

from benchmarks.codec_peers import peers
from benchmarks.codec_picture import CodecPoint, save_codecs
from benchmarks.page import PICTURES, Section, table, write
from benchmarks.reference_deltas import STAGES, reference_deltas
from benchmarks.report_steps import measure_report_steps
from keyflock_compression import (
    DEFAULT_SPEC,
    CodecSpec,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    DenseSpec,
    Float32Spec,
    Layout,
    RandmaskSpec,
    RotatedSpec,
    RowsetSpec,
    TopkSpec,
    decode,
    decode_weights,
    encode,
    encode_weights,
    encode_weights_delta,
    nmse,
)

COHORT: Final = 16
ADDS: Final = 101
ENCODINGS: Final = 9
DEFAULT: Final = "**deadzone_rows, the default**"
SPECS: Final[dict[str, CodecSpec]] = {
    DEFAULT: DEFAULT_SPEC,
    "deadzone_rows, target NMSE 0.05": DeadzoneRowsSpec(target_nmse=0.05, zstd_level=1),
    "deadzone_rows, target NMSE 0.1": DeadzoneRowsSpec(target_nmse=0.1, zstd_level=1),
    "deadzone_rows, target NMSE 0.2": DeadzoneRowsSpec(target_nmse=0.2, zstd_level=1),
    "deadzone_rows, target NMSE 0.4": DeadzoneRowsSpec(target_nmse=0.4, zstd_level=1),
    "deadzone_rows, step 4 rms, stochastic": DeadzoneRowsSpec(
        step_rms=4.0, rounding="stochastic", zstd_level=1
    ),
    "deadzone, target NMSE 0.16, zstd 9": DeadzoneSpec(target_nmse=0.16, zstd_level=9),
    "topk, 1 %": TopkSpec(keep_ratio=0.01, zstd_level=1),
    "topk, 1 %, sampled threshold": TopkSpec(keep_ratio=0.01, selection="sampled", zstd_level=1),
    "randmask, 10 %": RandmaskSpec(keep_ratio=0.1, rounding="stochastic", zstd_level=1),
    "rowset, 2,000 rows, 16 bits, step 1e-5": RowsetSpec(
        bits=16,
        step=1e-5,
        row_start=0,
        row_count=2_000,
        rounding="stochastic",
        zstd_level=1,
    ),
    "rotated, 1 bit": RotatedSpec(bits=1, entropy="none"),
    "rotated, 2 bits": RotatedSpec(bits=2, entropy="none"),
    "rotated, 4 bits": RotatedSpec(bits=4, entropy="none"),
    "dense, 1 bit": DenseSpec(bits=1),
    "dense, 2 bits": DenseSpec(bits=2),
    "dense, 4 bits": DenseSpec(bits=4),
    "dense int8": DenseSpec(),
    "float32": Float32Spec(),
}

#: The codecs that are shown at every stage of training, and joined in the picture.
BY_STAGE: Final = tuple(name for name in SPECS if name == DEFAULT or name.startswith("deadzone_rows, target"))
#: Codecs whose point has another label in the picture, or lies on another one.
LABELLED_ELSEWHERE: Final = (*BY_STAGE, "topk, 1 %, sampled threshold")


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """One method on all deltas; peers' methods have no times."""

    name: str
    bits_per_parameter: float
    nmse_of_one: float
    nmse_of_mean: float
    #: Length of the decoded delta along the true one's direction, as a ratio; 1 is unbiased.
    retained_ratio: float
    encode_ms: float | None = None
    decode_ms: float | None = None
    decode_over_dense_add: float | None = None

    def row(self) -> tuple[str, ...]:
        """Return the row of the table."""
        times = (self.encode_ms, self.decode_ms, self.decode_over_dense_add)
        return (
            self.name,
            f"{self.bits_per_parameter:.3f}",
            f"{32 / self.bits_per_parameter:.0f} times",
            f"{self.nmse_of_one:.3f}",
            f"{self.nmse_of_mean:.3f}",
            f"{self.retained_ratio:.3f}",
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
    reference = reference_deltas(phones)
    layout, deltas = reference.layout, reference.deltas["late"]
    running = np.zeros(layout.size, np.float32)
    dense_add_ms = median_ms(lambda: np.add(running, deltas[0], out=running), ADDS)
    our_figures = [measure_with_times(name, spec, deltas, layout) for name, spec in SPECS.items()]
    peer_figures = [measure_peer(name, deltas) for name in peers()]
    stages = {
        stage: [sent(name, SPECS[name], sample_deltas, layout) for name in BY_STAGE]
        for stage, sample_deltas in reference.deltas.items()
    }
    downloads = {stage: encode_weights(model, layout) for stage, model in reference.models.items()}
    download, version_0 = downloads["early"], reference.models["early"]
    header = (
        "codec",
        "bits a parameter",
        "of float32",
        "NMSE of one",
        "NMSE of the mean",
        "kept",
        "encode ms",
    )
    rows = [figures.row() for figures in (*our_figures, *peer_figures)]
    body = f"""{table((*header, "decode and add ms", "ratio to a dense add"), rows)}

![bits and errors](docs/pictures/codec.png)

{phones} phones, {layout.size:,} parameters, one local epoch each from a model with ten rounds behind it.
Methods without times are others', written from their papers (`load_tests/benchmarks/codec_peers.py`), their
bits an entropy rather than bytes. "Kept" is what is left of a delta along its own direction: phones with
different codecs are biased against each other by the difference (docs/decisions/0032). Adding one dense
float32 vector takes {dense_add_ms:.2f} ms in the same run; zstd-3 of the same deltas as int8 with one scale,
{int8_bits(deltas):.2f} bits a parameter. The model's download (int8 rows and
zstd) has {len(download) / 1e6:.2f} MB, {4 * layout.size / len(download):.1f} times less than float32, at an
NMSE of {nmse(version_0, decode_weights(download, layout)):.1e}.

{describe_weights_deltas(downloads)}

Bits a parameter, and NMSE of the mean of {phones}, by rounds behind the model:

{table(("codec", *(f"{stage}, {STAGES[stage]} rounds" for stage in stages)), rows_by_stage(stages))}

What the server does with a report in the default codec, late in training
(`load_tests/benchmarks/report_steps.py`):

{measure_report_steps(deltas, layout).page()}
"""
    if phones >= COHORT:
        write(Section("codec", "What a delta costs", "make bench-codec", body))
        draw(our_figures, peer_figures, phones)
    print(body)
    default, default_by_stage = our_figures[0], [sample_deltas[0] for sample_deltas in stages.values()]
    last = {
        "bits_per_parameter": max(one.bits_per_parameter for one in default_by_stage),
        "cohort_nmse": max(one.nmse_of_mean for one in default_by_stage),
        "encode_ms": default.encode_ms,
        "decode_over_dense_add": default.decode_over_dense_add,
    }
    print(json.dumps({name: round(value, 4) for name, value in last.items() if value is not None}))


def describe_weights_deltas(downloads: dict[str, bytes]) -> str:
    """Return a sentence about what a phone downloads that has an earlier stage's model."""
    clauses = []
    for before, after in pairwise(downloads):
        share = len(encode_weights_delta(downloads[after], downloads[before])) / len(downloads[after])
        clauses.append(f"{100 * share:.1f} % of it {STAGES[after] - STAGES[before]} versions on ({after})")
    steps = " and ".join(clauses)
    return f"""In these rounds without compression, in which every number moves, a phone that has an
earlier model downloads {steps}."""


def rows_by_stage(stages: dict[str, list[CodecFigures]]) -> list[tuple[str, ...]]:
    """Return a row for each codec with a cell for each stage."""
    rows = zip(*stages.values(), strict=True)
    return [
        (row[0].name, *(f"{one.bits_per_parameter:.3f}, {one.nmse_of_mean:.3f}" for one in row))
        for row in rows
    ]


def sent(name: str, spec: CodecSpec, deltas: list[np.ndarray], layout: Layout) -> CodecFigures:
    """Measure one codec on all deltas, without times."""
    containers = [encode(delta, layout, spec, seed=number) for number, delta in enumerate(deltas)]
    running = summed(containers, layout)
    of_mean = nmse(np.sum(deltas, axis=0), running)
    decoded = [decode(container, layout).dense() for container in containers]
    one = statistics.median(
        nmse(delta, decoded_delta) for delta, decoded_delta in zip(deltas, decoded, strict=True)
    )
    bits = 8 * statistics.mean(len(container) for container in containers) / layout.size
    return CodecFigures(name, bits, one, of_mean, retained_ratio_of(deltas, decoded))


def measure_with_times(name: str, spec: CodecSpec, deltas: list[np.ndarray], layout: Layout) -> CodecFigures:
    """Measure one codec on all deltas, and its times on the first phone's."""
    container, running = encode(deltas[0], layout, spec, seed=0), np.zeros(layout.size, np.float32)
    dense_ms, decode_ms = alternate_ms(
        lambda: np.add(running, deltas[0], out=running),
        lambda: decode(container, layout, spec=spec).add_to(running, 2.0),
    )
    return replace(
        sent(name, spec, deltas, layout),
        encode_ms=median_ms(lambda: encode(deltas[0], layout, spec, seed=0), ENCODINGS),
        decode_ms=decode_ms,
        decode_over_dense_add=decode_ms / dense_ms,
    )


def measure_peer(name: str, deltas: list[np.ndarray]) -> CodecFigures:
    """Measure a peer's method on all deltas."""
    rng = np.random.default_rng(0)
    sent = [peers()[name](delta, rng) for delta in deltas]
    return CodecFigures(
        name,
        statistics.mean(one.bits for one in sent) / deltas[0].size,
        statistics.median(nmse(delta, one.values) for delta, one in zip(deltas, sent, strict=True)),
        nmse(np.sum(deltas, axis=0), np.sum([one.values for one in sent], axis=0)),
        retained_ratio_of(deltas, [one.values for one in sent]),
    )


def retained_ratio_of(deltas: list[np.ndarray], sent: list[np.ndarray]) -> float:
    """Return the length of each decoded delta along the true one, as a ratio; the mean of the phones."""
    return statistics.mean(
        float(np.dot(delta, one)) / float(np.dot(delta, delta))
        for delta, one in zip(deltas, sent, strict=True)
    )


def draw(our_figures: list[CodecFigures], peer_figures: list[CodecFigures], phones: int) -> None:
    """Draw bits against the mean's error."""
    points = [
        *(
            _point(one, one.name.strip("*"), "tab:blue")
            for one in our_figures
            if one.name not in LABELLED_ELSEWHERE
        ),
        *(_point(one, one.name, "tab:gray") for one in peer_figures),
    ]
    line = [
        _point(one, _short(one.name), "tab:red" if one.name == DEFAULT else "tab:blue")
        for one in our_figures
        if one.name in BY_STAGE
    ]
    save_codecs(points, line, PICTURES / "codec.png", phones)


def _point(one: CodecFigures, name: str, colour: str) -> CodecPoint:
    return CodecPoint(name, one.bits_per_parameter, one.nmse_of_mean, colour)


def _short(name: str) -> str:
    return "the default" if name == DEFAULT else name.replace("deadzone_rows, target NMSE", "target")


def summed(containers: list[bytes], layout: Layout) -> np.ndarray:
    """Return the sum of the decoded deltas."""
    result = np.zeros(layout.size, np.float32)
    for container in containers:
        decode(container, layout).add_to(result, 1.0)
    return result


def int8_bits(deltas: list[np.ndarray]) -> float:
    """Return the bits a parameter of the plain alternative: one scale, int8, zstd-3."""
    compressor = zstandard.ZstdCompressor(level=3)
    sizes = []
    for delta in deltas:
        whole = np.rint(delta / (np.abs(delta).max() / 127)).astype(np.int8)
        sizes.append(len(compressor.compress(whole.tobytes())))
    return 8 * statistics.mean(sizes) / deltas[0].size


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call in milliseconds, after one call that does not count."""
    work()
    return 1000 * statistics.median(seconds(work) for _ in range(repeats))


def alternate_ms(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the median times of two calls that take turns, in milliseconds."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(ADDS)]
    return 1000 * statistics.median(a for a, _ in pairs), 1000 * statistics.median(b for _, b in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Return the time of one call in seconds."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
