"""A day of 10,000 phones: whether the server's memory is flat, and what the engine's own work takes.

    make bench-day
    make bench-day ARGS="--days 5"                  five days; of each time the median
    make bench-day ARGS="--phones 500 --hours 2"    a quick look, which writes nothing

Phones live in virtual time; the server is a process of its own on the same clock (``day_server``), over
SQLite, so its memory is the server's alone, and so is its CPU time around each call. Deltas are real ones,
trained beforehand on the default corpus at full size. What sockets and HTTP take is not in it: ``make load``
has that.
"""

import argparse
import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.day_figures import DayFigures, DiskUsage, figures
from benchmarks.day_fleet import HOUR_S, POPULATION, TASK, run_day
from benchmarks.day_page import section
from benchmarks.day_picture import save_day
from benchmarks.page import PICTURES, Section, write
from benchmarks.reference_deltas import full_size_start
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_compression import DEFAULT_SPEC, decode_weights, encode, encode_weights
from keyflock_models.network.layout import ParamLayout
from keyflock_models.training.local_training import LocalTrainingConfig, local_train

PHONES: Final = 10_000
HOURS: Final = 24.0
DELTAS: Final = 16
#: Number of lengths of each delta: reports with equal numbers would count as one in a flush.
LENGTHS: Final = 16
#: Idle and charging for seven hours around the night, but not all in the same: some work at night, some live
#: in another time zone. So there is work at every hour, and several times as much in the busiest.
PROFILE: Final = FleetProfile(
    seconds_per_example=1.0,
    speed_spread=0.6,
    loss_share=0.01,
    metered_share=0.1,
    drop_out_share=0.08,
    idle_from_h=23.0,
    idle_hours=7.0,
    idle_spread_h=4.0,
    ramp_s=HOUR_S,
)
TASK_TOML: Final = f"""
[task]
name = "{TASK}"
population = "{POPULATION}"
[round]
goal = 50
deadline_s = 900.0
[training]
learning_rate = 0.316
# The same deltas every round lead away from any text: what the checks find is measured, and holds no round.
[checks]
max_anchor_rise = 1000.0
max_anchor_drift = 1000.0
"""


def main() -> None:
    """Measure, and write the section and the picture after a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phones", type=int, default=PHONES)
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--days", type=int, default=1, help="repetitions (default 1)")
    arguments = parser.parse_args()
    checkpoint, deltas = record_deltas()
    days = []
    for number in range(arguments.days):
        days.append(measure_day(arguments.phones, arguments.hours, checkpoint, deltas, seed=number))
        print(section(days))
    if (arguments.phones, arguments.hours) == (PHONES, HOURS):
        save_day(days[0], PICTURES / "day.png")
        command = "make bench-day" + (f' ARGS="--days {arguments.days}"' if arguments.days > 1 else "")
        write(Section("day", "A day of 10,000 phones", command, section(days)))


def measure_day(
    phones: int, hours: float, checkpoint: bytes, deltas: list[bytes], *, seed: int
) -> DayFigures:
    """Run one day and return its figures."""
    with tempfile.TemporaryDirectory(prefix="keyflock-day-") as folder:
        place = Path(folder) / "server"
        day = asyncio.run(
            run_day(
                place,
                phones=phones,
                hours=hours,
                profile=PROFILE,
                checkpoint=checkpoint,
                task=TASK_TOML,
                deltas=deltas,
                seed=seed,
            )
        )
        return figures(day, disk_usage(place), phones=phones, hours=hours, delta_bytes=_mean_bytes(deltas))


def record_deltas() -> tuple[bytes, list[bytes]]:
    """Return version 0 and deltas of some phones of the default corpus, each at several lengths."""
    checkpoint, text = asyncio.run(full_size_start())
    layout = ParamLayout.for_config(checkpoint.config)
    start = decode_weights(encode_weights(checkpoint.weights, layout), layout)
    training = LocalTrainingConfig(learning_rate=0.316)
    phones = [rows for rows in text.phones.values() if len(rows) >= 16][:DELTAS]
    deltas = [local_train(checkpoint.config, start, rows, training, seed=0).delta for rows in phones]
    variants = [np.float32(1.0 - n / 1_000) * one for one in deltas for n in range(LENGTHS)]
    return checkpoint.to_bytes(), [
        encode(one, layout, DEFAULT_SPEC, seed=n) for n, one in enumerate(variants)
    ]


def disk_usage(place: Path) -> DiskUsage:
    """Return what a stopped server stores on the disk."""
    with closing(sqlite3.connect(place / "keyflock.sqlite3")) as database:
        sizes = dict(
            database.execute(
                "SELECT tbl_name, SUM(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY 1"
            )
        )
        rows = {
            table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
            for table in ("devices", "assignments", "rounds", "model_versions")
        }
    blobs = sum(path.stat().st_size for path in (place / "blobs").rglob("*") if path.is_file())
    return DiskUsage({name: sizes[name] / max(1, count) for name, count in rows.items()}, rows, blobs)


def _mean_bytes(deltas: list[bytes]) -> float:
    return sum(map(len, deltas)) / len(deltas)


if __name__ == "__main__":
    main()
