"""``make kills``: kill servers at random moments, and prove that what was acknowledged is counted once.

The last line on stdout is one JSON object: kills, acked, counted, lost, double, left (phones that were
forgotten, revoked or refreshed in the middle of a round), wrongly_counted, the held rounds that were accepted
and discarded, release_steps that an operator took, and what keyboards were served wrongly or histories lack:
wrongly_released. Everything else is on stderr.
Ctrl-C ends the killing early; what was done until then is checked.
Exit status: 0 nothing was lost or counted twice; 1 something was; 2 the servers progress_line no progress.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tests.recovery.chaos_environment import ChaosEnvironment, postgres_environment, sqlite_environment
from tests.recovery.chaos_report import STORES, ChaosReport
from tests.recovery.chaos_run import ChaosOutcome, ChaosRun, RunStalled
from tests.recovery.chaos_stats import ChaosStats
from tests.recovery.fork_server import ForkServer
from tests.recovery.replicas import ServerNotReady
from tests.services.postgres import PostgresServer, installed_binaries

from benchmarks import page
from keyflock_client_sim.console import make_console

_MAX_VIOLATIONS_SHOWN: Final = 40
#: Number of faults between two lines, where there is no terminal to draw a bar on.
_FAULTS_PER_LINE: Final = 20


def main() -> int:
    """Run, print the report, and return the exit status."""
    options = _parse_options()
    console = make_console(stderr=True)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="keyflock-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ForkServer(folder / "fork_server.log") as fork_server, _database_url(options.store) as url:
            if url is None:
                opening = sqlite_environment(folder, fork_server, options.seed)
            else:
                opening = postgres_environment(folder, fork_server, options.seed, url)
            outcome = asyncio.run(_run_with_progress(opening, options.seed, options.kills, console))
    except (RunStalled, ServerNotReady) as error:
        console.print(f"kills: {error}\nThe servers' folders and logs are in {folder}.", style="red")
        return 2
    report = ChaosReport(outcome, options.store)
    _print_report(report, console)
    violations = (
        *report.departed_violations,
        *report.exactly_once.violations,
        *outcome.release_violations,
    )
    for violation in violations[:_MAX_VIOLATIONS_SHOWN]:
        console.print(violation)
    if options.page:
        page.write(report.section())
    if report.is_clean and not options.folder:
        shutil.rmtree(folder)
    else:
        console.print(f"The servers' folders and logs are in {folder}.")
    sys.stdout.write(report.json_line() + "\n")
    return 0 if report.is_clean else 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="processes to kill (make kills N=...)")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="(make kills STORE=...)")
    parser.add_argument("--seed", type=int, default=1, help="determines phones, moments and victims")
    parser.add_argument(
        "--folder", help="keep all files here; left out, they are kept only when something is wrong"
    )
    parser.add_argument("--page", action="store_true", help="write the report into BENCHMARKS.md")
    return parser.parse_args()


@contextmanager
def _database_url(name: str) -> Iterator[str | None]:
    """Yield the URL of an empty PostgreSQL database of this run's own; None for SQLite."""
    if name == "sqlite":
        yield None
        return
    binaries, to_remove = installed_binaries()
    with PostgresServer.folder() as folder:
        server = PostgresServer(folder, binaries)
        server.start()
        try:
            yield server.url(server.create())
        finally:
            server.stop()
            if to_remove is not None:
                shutil.rmtree(to_remove)


async def _run_with_progress(
    opening: AbstractAsyncContextManager[ChaosEnvironment],
    seed: int,
    kills: int,
    console: Console,
) -> ChaosOutcome:
    columns = (
        TextColumn("kills", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[versions]} model versions, {task.fields[closing]} kills while closing", markup=False
        ),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        bar = progress.add_task("", total=kills, versions=0, closing=0)

        def show(stats: ChaosStats) -> None:
            if not console.is_terminal and stats.faults % _FAULTS_PER_LINE == 0:
                progress_line = f"{stats.versions} model versions, {stats.while_closing} kills while closing"
                console.print(f"{stats.kills} of {kills} kills, {progress_line}")
            progress.update(bar, completed=stats.kills, versions=stats.versions, closing=stats.while_closing)

        async with opening as environment:
            chaos_run = ChaosRun(environment, seed, show)
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, chaos_run.stop)
            return await chaos_run.run(kills)


def _print_report(report: ChaosReport, console: Console) -> None:
    table = Table(show_header=False, title=f"What survives being killed, on {STORES[report.store]}")
    for name, value in report.rows():
        table.add_row(name.strip("*"), value.strip("*"))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
