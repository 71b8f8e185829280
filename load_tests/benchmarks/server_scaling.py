"""How a server's cost grows: with enrolled phones, with the phones of a round, with the model, with replicas.

    make bench-scaling                          a quarter of an hour; writes a section and a picture
    make bench-scaling ARGS="--quick"           a look at fewer and smaller sizes, which writes nothing

What is compared is the CPU time of the server process for a call; deltas are synthetic. Along each axis all
else stays the same. Replicas are two processes over one PostgreSQL, against one of them alone.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.page import PICTURES, Section, table, write
from benchmarks.server_close import closing_cpu_ms
from benchmarks.server_measurements import (
    MeasureSizes,
    peak_of_assigned,
    peak_of_downloads,
    peak_of_refused,
    peak_of_reports,
)
from benchmarks.server_phones import AssignedPhones
from benchmarks.server_replicas import ReplicaFigures, measure_replicas
from benchmarks.server_rig import on_cores, running_rig
from benchmarks.server_scaling_picture import GrowingSize, growth, save_scaling
from benchmarks.server_tasks import (
    CLOSING,
    CLOSING_PHONES,
    REFUSED,
    WORKING,
    Workload,
    closing_population,
    refusing_population,
    working_population,
    workload_of,
)
from keyflock_load_tests.payload import checkpoint_of
from keyflock_models.network.config import ModelConfig

REFUSED_CHECK_IN: Final = "check-in, refused"
ASSIGNED_CHECK_IN: Final = "check-in that gets work"
REPORT: Final = "report"
DOWNLOAD: Final = "model download"
CLOSED_ROUND: Final = "round of 16 reports, closed"


@dataclass(frozen=True, slots=True)
class ScalingSizes:
    """What is measured."""

    measures: MeasureSizes
    #: Enrolled phones.
    phones: tuple[int, ...]
    #: Phones that have work when the others report.
    cohorts: tuple[int, ...]
    models: tuple[ModelConfig, ...]
    #: Phones of a population whose number is not what grows.
    few: int = 20_000


FULL: Final = ScalingSizes(
    MeasureSizes(seconds=1.2, report_connections=64),
    phones=(1_000, 10_000, 100_000, 1_000_000),
    cohorts=(100, 1_000, 10_000, 50_000),
    models=(
        ModelConfig(vocabulary_size=5_000, embedding_size=64, hidden_size=390),
        ModelConfig(),
        ModelConfig(vocabulary_size=20_000, embedding_size=192, hidden_size=850),
        ModelConfig(vocabulary_size=50_000, embedding_size=320, hidden_size=1_760),
    ),
    few=60_000,
)
QUICK: Final = ScalingSizes(
    MeasureSizes(runs=1, seconds=1.0, report_connections=16),
    phones=(1_000, 10_000),
    cohorts=(100, 1_000),
    models=(ModelConfig.named("tiny"), ModelConfig.named("small")),
)


def main() -> None:
    """Measure, print the section, and write it and the picture after a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes, which write nothing")
    sizes = QUICK if parser.parse_args().quick else FULL
    model = sizes.models[min(1, len(sizes.models) - 1)]
    work = workload_of(checkpoint_of(model, seed=1))
    axes = [by_phones(work, sizes), by_cohort(work, sizes), by_model(sizes)]
    replicas = measure_replicas(work, sizes.measures)
    text = section(axes, replicas, model, sizes.measures.runs)
    print(text)
    if sizes is FULL:
        save_scaling(axes, PICTURES / "server_scaling.png")
        write(Section("server-scaling", "How a server's cost grows", "make bench-scaling", text))
    print(json.dumps({axis.name: growth(axis) for axis in axes} | {"replicas": replicas.line()}))


def by_phones(work: Workload, sizes: ScalingSizes) -> GrowingSize:
    """Measure check-ins against the number of enrolled phones, and reports beside them."""
    axis = GrowingSize("enrolled phones")
    for count in sizes.phones:
        populations = (
            refusing_population(work.checkpoint, count),
            working_population(work.checkpoint, min(count, sizes.few)),
        )
        with (
            tempfile.TemporaryDirectory(prefix="keyflock-scaling-") as name,
            on_cores() as (generator, cores),
            running_rig(Path(name) / "server", populations, generator, cores) as rig,
        ):
            phones = AssignedPhones(rig, rig.fleets[WORKING], work.deltas)
            refused = peak_of_refused(rig, rig.fleets[REFUSED], None, sizes.measures, Counter())
            axis.add(count, REFUSED_CHECK_IN, refused.cpu_ms)
            if count >= 10_000:  # each of these phones comes once
                axis.add(count, ASSIGNED_CHECK_IN, peak_of_assigned(phones, sizes.measures).cpu_ms)
                axis.add(count, REPORT, peak_of_reports(rig, phones, None, sizes.measures).cpu_ms)
        _say(axis, count)
    return axis


def by_cohort(work: Workload, sizes: ScalingSizes) -> GrowingSize:
    """Measure check-ins and reports against the number of phones that have work in the round."""
    axis = GrowingSize("phones with work in the round")
    populations = (working_population(work.checkpoint, 2 * max(sizes.cohorts) + sizes.few),)
    with (
        tempfile.TemporaryDirectory(prefix="keyflock-scaling-") as name,
        on_cores() as (generator, cores),
        running_rig(Path(name) / "server", populations, generator, cores) as rig,
    ):
        waiting = AssignedPhones(rig, rig.fleets[WORKING], work.deltas)
        phones = AssignedPhones(rig, rig.fleets[WORKING], work.deltas)
        there = 0
        for count in sizes.cohorts:
            waiting.check_in(duration_s=600.0, visits=count - there, connections=64)
            there = count
            axis.add(count, ASSIGNED_CHECK_IN, peak_of_assigned(phones, sizes.measures).cpu_ms)
            axis.add(count, REPORT, peak_of_reports(rig, phones, None, sizes.measures).cpu_ms)
            _say(axis, count)
    return axis


def by_model(sizes: ScalingSizes) -> GrowingSize:
    """Measure what depends on the model against its number of parameters."""
    axis = GrowingSize("parameters of the model")
    for config in sizes.models:
        work = workload_of(checkpoint_of(config, seed=1))
        populations = (
            working_population(work.checkpoint, sizes.few),
            closing_population(work.checkpoint, CLOSING_PHONES),
        )
        with (
            tempfile.TemporaryDirectory(prefix="keyflock-scaling-") as name,
            on_cores() as (generator, cores),
            running_rig(Path(name) / "server", populations, generator, cores) as rig,
        ):
            phones, count = AssignedPhones(rig, rig.fleets[WORKING], work.deltas), config.parameter_count
            axis.add(count, ASSIGNED_CHECK_IN, peak_of_assigned(phones, sizes.measures).cpu_ms)
            axis.add(count, REPORT, peak_of_reports(rig, phones, None, sizes.measures).cpu_ms)
            downloads = peak_of_downloads(rig, rig.fleets[WORKING], None, sizes.measures)
            axis.add(count, DOWNLOAD, downloads.cpu_ms)
            closing = closing_cpu_ms(rig, rig.fleets[CLOSING], work.deltas, CLOSING, rounds=3)
            axis.add(count, CLOSED_ROUND, closing)
        _say(axis, count)
    return axis


def section(axes: Sequence[GrowingSize], replicas: ReplicaFigures, model: ModelConfig, runs: int) -> str:
    """Return the section."""
    parts = [f"{_axis_table(axis)}\n\n{_growth_sentence(axis)}" for axis in axes]
    tables = "\n\n".join(parts)
    return f"""CPU time of the server process a call, in milliseconds: medians of {runs} runs; SQLite,
synthetic deltas. Unless the model is what grows, it has {model.parameter_count:,} parameters.

{tables}

![cost of a call against phones, cohort and model](docs/pictures/server_scaling.png)

{replicas.text()}
"""


def _axis_table(axis: GrowingSize) -> str:
    header = (axis.name, *axis.costs)
    rows = [
        (f"{size:,}", *(f"{points[size]:.3f}" if size in points else "" for points in axis.costs.values()))
        for size in axis.sizes
    ]
    return table(header, rows)


def _growth_sentence(axis: GrowingSize) -> str:
    times = axis.sizes[-1] / axis.sizes[0]
    found = [f"{call} {cost_times:.2f} times" for call, cost_times in _cost_times(axis).items()]
    return f"From the smallest to the largest, {times:,.0f} times as many: {', '.join(found)}."


def _cost_times(axis: GrowingSize) -> dict[str, float]:
    return {
        call: points[max(points)] / points[min(points)]
        for call, points in axis.costs.items()
        if len(points) > 1 and points[min(points)] > 0.0
    }


def _say(axis: GrowingSize, size: int) -> None:
    found = ", ".join(
        f"{call} {points[size]:.3f} ms" for call, points in axis.costs.items() if size in points
    )
    print(f"{axis.name} {size:,}: {found}", flush=True)


if __name__ == "__main__":
    main()
