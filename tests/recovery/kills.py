"""``make kills``: kill servers at random moments, and prove that what was acknowledged is counted once.

The last line on stdout is one JSON object: kills, acked, counted, lost, double, left (phones that were
forgotten, revoked or refreshed in the middle of a round), wrongly_counted, and the held rounds that were
accepted and discarded. Everything else is on stderr.
Ctrl-C ends the killing early, and what was done until then is judged.
Exit status: 0 nothing was lost or counted twice; 1 something was; 2 the servers did not go on by themselves.
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
from tests.benchmarks import page
from tests.recovery.cast import NotReady
from tests.recovery.findings import STORES, Findings
from tests.recovery.nursery import Nursery
from tests.recovery.stage import Stage, over_postgres, over_sqlite
from tests.recovery.story import Ending, Stalled, Story
from tests.recovery.tally import Tally
from tests.services.postgres import PostgresServer, installed_binaries

_FAULTS_SHOWN: Final = 40
#: Moments between two lines, where there is no terminal to draw a bar on.
_LINE_EVERY: Final = 20


def main() -> int:
    """Run, print, and return the exit status."""
    options = _options()
    console = Console(stderr=True)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="keyflock-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Nursery(folder / "nursery.log") as nursery, _store(options.store) as url:
            if url is None:
                opened = over_sqlite(folder, nursery, options.seed)
            else:
                opened = over_postgres(folder, nursery, options.seed, url)
            ending = asyncio.run(_play(opened, options.seed, options.kills, console))
    except (Stalled, NotReady) as error:
        console.print(f"[red]kills: {error}[/red]\nThe servers' folders and logs are in {folder}.")
        return 2
    findings = Findings(ending, options.store)
    _show(findings, console)
    for fault in (*findings.wrongly_counted, *findings.verdict.faults)[:_FAULTS_SHOWN]:
        console.print(fault)
    if options.page:
        page.write(findings.section())
    if findings.is_clean and not options.folder:
        shutil.rmtree(folder)
    else:
        console.print(f"The servers' folders and logs are in {folder}.")
    sys.stdout.write(findings.line() + "\n")
    return 0 if findings.is_clean else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="processes to kill (make kills N=...)")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="(make kills STORE=...)")
    parser.add_argument("--seed", type=int, default=1, help="of phones, moments and victims")
    parser.add_argument(
        "--folder", help="keep everything here; left out, it is kept only when something is wrong"
    )
    parser.add_argument("--page", action="store_true", help="write the findings into BENCHMARKS.md")
    return parser.parse_args()


@contextmanager
def _store(name: str) -> Iterator[str | None]:
    """The URL of an empty PostgreSQL database of this run's own; None for SQLite."""
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


async def _play(
    opened: AbstractAsyncContextManager[Stage], seed: int, kills: int, console: Console
) -> Ending:
    columns = (
        TextColumn("kills"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[versions]} model versions, {task.fields[closing]} kills while closing"),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        bar = progress.add_task("", total=kills, versions=0, closing=0)

        def show(tally: Tally) -> None:
            if not console.is_terminal and tally.blows % _LINE_EVERY == 0:
                made = f"{tally.versions} model versions, {tally.while_closing} kills while closing"
                console.print(f"{tally.kills} of {kills} kills, {made}")
            progress.update(bar, completed=tally.kills, versions=tally.versions, closing=tally.while_closing)

        async with opened as stage:
            story = Story(stage, seed, show)
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, story.finish)
            return await story.play(kills)


def _show(findings: Findings, console: Console) -> None:
    shown = Table(show_header=False, title=f"What survives being killed, on {STORES[findings.store]}")
    for name, value in findings.rows():
        shown.add_row(name.strip("*"), value.strip("*"))
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
