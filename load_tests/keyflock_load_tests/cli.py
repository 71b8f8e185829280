"""``python -m keyflock_load_tests SCENARIO [--json] [--out DIR]``."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from keyflock_client_sim.cli.ending import run_command
from keyflock_client_sim.cli.version_option import VersionOption
from keyflock_client_sim.console import make_console
from keyflock_load_tests.scenario import Scenario
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
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")] = False,
    out: Annotated[
        Path | None, typer.Option(help="keep the picture, the JSON and the server's log here")
    ] = None,
    _version: VersionOption = False,
) -> None:
    """Play a scenario against a server of its own on this machine; fail only if something is incorrect."""
    chosen = SCENARIOS.get(scenario)
    if chosen is None:
        typer.echo(f"There is no scenario {scenario!r}; there are: {', '.join(SCENARIOS)}.", err=True)
        raise typer.Exit(EXIT_USAGE)
    raise typer.Exit(_run_scenario(chosen, as_json=as_json, out=out))


def _run_scenario(scenario: Scenario, *, as_json: bool, out: Path | None) -> int:
    from keyflock_client_sim.server_control.server_process import ServerStartError
    from keyflock_load_tests.harness import run
    from keyflock_load_tests.report import print_report

    console = make_console(stderr=as_json)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyflock-load-")))
        console.print(f"{scenario.name}: {scenario.purpose} {_minutes(scenario)} ...", soft_wrap=True)
        try:
            outcome = run(scenario, scratch / "server")
        except ServerStartError as error:
            typer.echo(str(error), err=True)
            return EXIT_INCORRECT
        print_report(outcome, console)
        summary = json.dumps(outcome.summary())
        if out is not None:
            _keep(out, summary, scratch / "server" / "server.log")
            picture = out / f"{scenario.name}.png"
            from keyflock_load_tests.picture import save_picture

            save_picture(outcome, picture)
            console.print(f"picture: {picture}", soft_wrap=True)
        if as_json:
            typer.echo(summary)
    return EXIT_INCORRECT if outcome.correctness.violations() else 0


def _keep(out: Path, summary: str, log: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(summary + "\n", encoding="utf-8")
    (out / "server.log").write_bytes(log.read_bytes())


def _minutes(scenario: Scenario) -> str:
    return f"{(scenario.arrivals.duration_s + scenario.drain_s + 15) / 60:.1f} minutes at most"
