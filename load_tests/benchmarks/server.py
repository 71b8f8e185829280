"""What one server core does: check-ins, reports and downloads, beside what the machine gives at most.

    make bench-server                           about six minutes; writes the section in BENCHMARKS.md
    make bench-server ARGS="--quick"            a look in a minute or two, which writes nothing

A real server process over SQLite with full sync, pinned to a core; a generator process on another one
(``keyflock_load_tests.generator``). Every peak is measured in turn with a bare aiohttp handler on the same
core and the same bytes. The full-size model; reports are the reference deltas of ``make bench-codec`` in the
default codec, no two of them equal; each phone comes once, or after its return window. The last line that is
printed is the result as JSON.
"""

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.page import Section, write
from benchmarks.server_ceilings import BareServer, bare_server, dense_add_ms, syncs_per_s
from benchmarks.server_close import measure_closing
from benchmarks.server_measurements import (
    BELOW_PEAK,
    MeasureSizes,
    overload_of_check_ins,
    overload_of_reports,
    peak_of_assigned,
    peak_of_downloads,
    peak_of_refused,
    peak_of_reports,
    refused_at,
    reports_at,
    reports_read_and_dropped,
)
from benchmarks.server_page import Ceilings, ServerFigures, section
from benchmarks.server_phones import MODEL, AssignedPhones
from benchmarks.server_rig import ServerRig, on_cores, running_rig
from benchmarks.server_tasks import (
    CLOSING,
    CLOSING_PHONES,
    REFUSED,
    WORKING,
    Workload,
    closing_population,
    reference_workload,
    refusing_population,
    synthetic_workload,
    working_population,
)
from keyflock_load_tests import phone_requests
from keyflock_load_tests.traffic import Requests


@dataclass(frozen=True, slots=True)
class BenchSizes:
    """The size of a whole measurement."""

    measures: MeasureSizes
    refused_phones: int
    working_phones: int
    closings: int
    #: A named model size; None: the full size with the reference deltas.
    model: str | None = None


FULL: Final = BenchSizes(MeasureSizes(), refused_phones=100_000, working_phones=150_000, closings=6)
QUICK: Final = BenchSizes(
    MeasureSizes(runs=2, seconds=1.0, open_s=2.0, overload_s=1.0, recovery_s=1.0),
    refused_phones=30_000,
    working_phones=40_000,
    closings=2,
)
#: For a test: it takes seconds, and its figures mean nothing.
TINY: Final = BenchSizes(
    MeasureSizes(runs=1, seconds=0.5, open_s=0.3, overload_s=0.3, recovery_s=0.3, report_connections=16),
    refused_phones=2_000,
    working_phones=8_000,
    closings=1,
    model="tiny",
)


def main() -> None:
    """Measure, print the section and the line, and write the section after a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short runs, which write nothing")
    sizes = QUICK if parser.parse_args().quick else FULL
    figures = measure(sizes)
    text = section(figures)
    print(text)
    if sizes is FULL:
        write(Section("server", "What one server core does", "make bench-server", text))
    print(json.dumps(figures.line()))


def measure(sizes: BenchSizes) -> ServerFigures:
    """Measure everything."""
    work = reference_workload() if sizes.model is None else synthetic_workload(sizes.model)
    populations = (
        refusing_population(work.checkpoint, sizes.refused_phones),
        working_population(work.checkpoint, sizes.working_phones),
        closing_population(work.checkpoint, CLOSING_PHONES),
    )
    with tempfile.TemporaryDirectory(prefix="keyflock-server-") as name, on_cores() as (generator, cores):
        folder = Path(name)
        with running_rig(folder / "server", populations, generator, cores) as rig:
            answer, model = sample_answers(rig)
            with bare_server(
                folder / "bare", cores, answer=answer, model=model, config=work.config, norm=work.norm
            ) as bare:
                return measure_rig(rig, bare, work, sizes, folder)


def sample_answers(rig: ServerRig) -> tuple[bytes, bytes]:
    """Return a refusal and the model as the server sends them."""
    tokens = rig.fleets[REFUSED].take(1)
    refusal = Requests("check_in", phone_requests.check_ins(tokens), keeps_answers=True)
    model = Requests(MODEL, phone_requests.downloads(tokens, 0), keeps_answers=True)
    bodies = [
        rig.play(script, visits=1, duration_s=30.0, connections=1).record.books[0]
        for script in (refusal, model)
    ]
    return bodies[0], bodies[1]


def measure_rig(
    rig: ServerRig, bare: BareServer, work: Workload, sizes: BenchSizes, folder: Path
) -> ServerFigures:
    """Measure a server that runs."""
    measures, kinds = sizes.measures, Counter[str]()
    refusing, phones = rig.fleets[REFUSED], AssignedPhones(rig, rig.fleets[WORKING], work.deltas)
    refused = peak_of_refused(rig, refusing, bare, measures, kinds)
    _say("check-ins that are refused", refused.per_s)
    refused_open = refused_at(rig, refusing, BELOW_PEAK * refused.per_s, measures)
    assigned = peak_of_assigned(phones, measures)
    _say("check-ins that get work", assigned.per_s)
    reports = peak_of_reports(rig, phones, bare, measures)
    _say("reports", reports.per_s)
    reports_open = reports_at(phones, BELOW_PEAK * reports.per_s, measures)
    dropped = reports_read_and_dropped(rig, phones, bare, measures)
    downloads = peak_of_downloads(rig, refusing, bare, measures)
    _say("downloads", downloads.per_s)
    closing = measure_closing(
        rig,
        phones,
        rig.fleets[CLOSING],
        work.deltas,
        CLOSING,
        rounds=sizes.closings,
        peak_per_s=reports.per_s,
    )
    overload = {
        "check-ins": overload_of_check_ins(rig, refusing, refused.per_s, measures, refused_open.p99_ms),
        "reports": overload_of_reports(phones, reports.per_s, measures, reports_open.p99_ms),
    }
    return ServerFigures(
        refused=refused,
        refused_open=refused_open,
        kinds=dict(kinds),
        assigned=assigned,
        reports=reports,
        reports_open=reports_open,
        downloads=downloads,
        closing=closing,
        overload=overload,
        ceilings=Ceilings(
            dropped=dropped,
            dense_add_ms=dense_add_ms(work.config.parameter_count),
            syncs_per_s=syncs_per_s(folder),
        ),
        delta_bytes=work.deltas.mean_bytes,
        correctness=phones.correctness(WORKING),
        reports_refused=dict(phones.books.refused),
        cores=rig.cores,
        sizes=(sizes.refused_phones, sizes.working_phones),
        runs=measures.runs,
    )


def _say(what: str, per_s: float) -> None:
    print(f"{what}: {per_s:,.0f}/s", flush=True)


if __name__ == "__main__":
    main()
