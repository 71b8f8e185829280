"""This server against that of another commit: the same generator, in turn on the same core.

    make bench-compare BASE=fd03c66
    make bench-compare BASE=main ARGS="--runs 9 --quick"

The other commit is checked out into a temporary folder (``git worktree``), and its server runs from there;
all else is this commit's. Both servers run at once over data of their own, and one is asked while the other
rests. Ratios are medians over pairs of runs: above 1, this commit is faster or cheaper.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.page import table
from benchmarks.server_measurements import (
    LoopFigures,
    MeasureSizes,
    peak_of_assigned,
    peak_of_downloads,
    peak_of_refused,
    peak_of_reports,
)
from benchmarks.server_phones import AssignedPhones
from benchmarks.server_rig import ServerRig, on_cores, running_rig
from benchmarks.server_tasks import (
    REFUSED,
    WORKING,
    Workload,
    reference_workload,
    refusing_population,
    synthetic_workload,
    working_population,
)

ROOT: Final = Path(__file__).resolve().parents[2]
#: The folders of the packages that a server needs.
_PACKAGES: Final = ("server", "client_sim", "models", "compression")
_PHONES: Final = 60_000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--size", help="a named model size with synthetic deltas, instead of the full one")
    arguments = parser.parse_args()
    sizes = MeasureSizes(runs=1, seconds=1.0 if arguments.quick else 2.5)
    work = synthetic_workload(arguments.size) if arguments.size else reference_workload()
    with worktree(arguments.base) as base:
        print(compare(base, work, sizes, runs=arguments.runs))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="keyflock-base-") as name:
        folder = Path(name) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(folder), commit], check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=False, capture_output=True)


def server_command(source: Path) -> Sequence[str]:
    """Return the command of the server whose packages are in this folder."""
    path = ":".join(str(source / package) for package in _PACKAGES)
    return ("/usr/bin/env", f"PYTHONPATH={path}", sys.executable, "-m", "keyflock_server")


def compare(base: Path, work: Workload, sizes: MeasureSizes, *, runs: int) -> str:
    """Return the table of both servers' figures."""
    populations = (
        refusing_population(work.checkpoint, _PHONES),
        working_population(work.checkpoint, _PHONES),
    )
    with tempfile.TemporaryDirectory(prefix="keyflock-compare-") as name, on_cores() as (generator, cores):
        folder = Path(name)
        with (
            running_rig(folder / "base", populations, generator, cores, command=server_command(base)) as old,
            running_rig(folder / "this", populations, generator, cores, command=server_command(ROOT)) as new,
        ):
            sides = [Side(old, work, sizes), Side(new, work, sizes)]
            found: dict[str, tuple[list[LoopFigures], list[LoopFigures]]] = {
                call: ([], []) for call in sides[0].measures
            }
            for number in range(runs):
                for call, both in found.items():
                    # Who begins changes with every pair.
                    for side in (0, 1) if number % 2 == 0 else (1, 0):
                        both[side].append(sides[side].measures[call]())
            wrong = [side.lost_or_double() for side in sides]
    rows = [_row(call, *both) for call, both in found.items()]
    header = ("call", "base, calls/s", "this", "faster, times", "base, CPU ms", "this", "cheaper, times")
    return f"""{table(header, rows)}

Lost or double reports: base {wrong[0]}, this {wrong[1]}. Medians of {runs} pairs."""


class Side:
    """One of the two servers.

    Args:
        rig: The server.
        work: The model, and what phones report.
        sizes: How long one run takes.
    """

    def __init__(self, rig: ServerRig, work: Workload, sizes: MeasureSizes) -> None:
        sizes, fleet = replace(sizes, runs=1), rig.fleets[REFUSED]
        phones = AssignedPhones(rig, rig.fleets[WORKING], work.deltas)
        self._phones = phones
        #: One run of each kind of call.
        self.measures: dict[str, Callable[[], LoopFigures]] = {
            "check-in, refused": lambda: peak_of_refused(rig, fleet, None, sizes, Counter()).ours[0],
            "check-in that gets work": lambda: peak_of_assigned(phones, sizes).ours[0],
            "report": lambda: peak_of_reports(rig, phones, None, sizes).ours[0],
            "model download": lambda: peak_of_downloads(rig, fleet, None, sizes).ours[0],
        }

    def lost_or_double(self) -> int:
        """Return how many reports are lost or double by the books."""
        correctness = self._phones.correctness(WORKING)
        return correctness.lost + correctness.double


def _row(call: str, base: list[LoopFigures], this: list[LoopFigures]) -> tuple[str, ...]:
    pairs = list(zip(base, this, strict=True))
    faster = statistics.median(new.per_s / max(old.per_s, 1e-9) for old, new in pairs)
    cheaper = statistics.median(old.cpu_ms / max(new.cpu_ms, 1e-9) for old, new in pairs)
    return (
        call,
        *(f"{statistics.median(one.per_s for one in side):,.0f}" for side in (base, this)),
        f"{faster:.2f}",
        *(f"{statistics.median(one.cpu_ms for one in side):.3f}" for side in (base, this)),
        f"{cheaper:.2f}",
    )


if __name__ == "__main__":
    main()
