"""``python -m keyflock_load_tests SCENARIO [--rate R] [--duration S] [--devices N] [--json] [--out DIR]``."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from keyflock_client_sim.cli.ending import run_command
from keyflock_client_sim.cli.version_option import VersionOption
from keyflock_client_sim.console import make_console
from keyflock_load_tests.scenario import Scenario, ScenarioError
from keyflock_load_tests.scenarios import SCENARIOS

#: A report was lost or counted twice, or the server broke.
EXIT_INCORRECT = 1
#: The command line asks for something that does not exist.
EXIT_USAGE = 2

app = typer.Typer(
    name="keyflock_load_tests",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help stay, and no character needs more than ASCII
)


def main() -> NoReturn:
    """Run the command, and end the process with its exit code."""
    run_command(app, "keyflock_load_tests")


@app.command()
def load_test(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="One of: " + ", ".join(SCENARIOS))
    ] = "steady_day",
    rate: Annotated[float | None, typer.Option(help="mean visits or calls a second")] = None,
    duration: Annotated[float | None, typer.Option(help="seconds for which load is offered")] = None,
    devices: Annotated[int | None, typer.Option(help="devices enrolled before the clock starts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for the page, the JSON and the servers' logs (default: a temporary one)"),
    ] = None,
    _version: VersionOption = False,
) -> None:
    """Play a scenario against servers of its own on this machine; fail only if something is incorrect."""
    chosen = SCENARIOS.get(scenario)
    if chosen is None:
        typer.echo(f"There is no scenario {scenario!r}; there are:", err=True)
        for name, known in SCENARIOS.items():
            typer.echo(f"  {name:<16} {known.purpose}", err=True)
        raise typer.Exit(EXIT_USAGE)
    try:
        scaled = chosen.scaled(rate_per_s=rate, duration_s=duration, devices=devices)
    except ScenarioError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_USAGE) from None
    raise typer.Exit(_run_scenario(scaled, as_json=as_json, out=out))


def _run_scenario(scenario: Scenario, *, as_json: bool, out: Path | None) -> int:
    import msgspec

    from keyflock_client_sim.server_control.server_process import ServerStartError
    from keyflock_load_tests.cores import Cores
    from keyflock_load_tests.harness import run
    from keyflock_load_tests.html_report import render
    from keyflock_load_tests.report import print_report

    console = make_console(stderr=as_json)
    out = out or Path(tempfile.mkdtemp(prefix=f"keyflock-load-{scenario.name}-"))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="keyflock-load-") as name:
        servers = Path(name) / "servers"
        console.print(f"{scenario.name}: {scenario.purpose} {_minutes(scenario)} ...", soft_wrap=True)
        try:
            report = run(scenario, servers, Cores.chosen())
        except ServerStartError as error:
            typer.echo(str(error), err=True)
            return EXIT_INCORRECT
        finally:
            for log in servers.glob("*/server.log"):
                shutil.copyfile(log, out / f"{log.parent.name}.log")
    line = msgspec.json.encode(report)
    (out / f"{scenario.name}.json").write_bytes(line + b"\n")
    page = out / f"{scenario.name}.html"
    page.write_text(render(report), encoding="utf-8")
    print_report(report, console)
    console.print(f"page: {page}", soft_wrap=True)
    if as_json:
        typer.echo(line.decode())
    return EXIT_INCORRECT if report.violations else 0


def _minutes(scenario: Scenario) -> str:
    return f"{(scenario.arrivals.duration_s + scenario.drain_s + 60) / 60:.1f} minutes at most"
