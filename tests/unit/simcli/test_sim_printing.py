"""What the simulator prints: any text, in any encoding, and what was left out or is being waited for."""

import asyncio
import io
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import typer
from rich.text import Text
from tests.unit.demo.test_demo_pages import RESULT
from typer.testing import CliRunner

from keyflock_client_sim.cli import application, choices, demo
from keyflock_client_sim.cli import run as run_command_module
from keyflock_client_sim.cli.ending import run_command
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode
from keyflock_client_sim.cli.signals import ending_signals, treat_signals_as_interrupt
from keyflock_client_sim.console import changing_line, make_console
from keyflock_client_sim.demo.display import Display
from keyflock_client_sim.demo.verdict import print_verdict
from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.drivers.fleet_stats_page import status_line, summary_table, unacknowledged_hint
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.training_setup.options import DemoOptions
from keyflock_load_tests.cli import app as load_tests
from keyflock_models.network.config import SIZES

pytestmark = pytest.mark.fault("F14")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def _default_handlers() -> Iterator[None]:
    """Give the signals their default handlers, whatever this process ignores, and restore its own."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ascii_output(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Replace standard output by that of a terminal which knows only ASCII; return what is written to it."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    return written


def test_a_folder_with_brackets_in_its_name_is_named_at_the_end_of_a_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("keyflock_client_sim.demo.run.run_demo", lambda *_a, **_k: RESULT)
    monkeypatch.setattr(demo, "_picture", lambda _result, folder: f"{folder}/curve.png")
    folder = tmp_path / "br[" / "x]" / "k[bold]"

    demo._run(DemoOptions(keep=folder), as_json=False)

    assert f"{folder}/curve.png" in capsys.readouterr().out


def test_the_name_of_an_extra_keeps_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keyflock_client_sim.demo.learning_curve", None)

    make_console().print(demo._picture(RESULT, None))

    assert "keyflock[demo]" in capsys.readouterr().out


def test_no_text_is_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console, text = make_console(width=200), "a[/]b[red]c[/x]"
    display = Display(console)

    console.print(text)
    display.print_line(text)
    display.begin(text)
    with changing_line(console, text) as show:
        show(text)

    assert capsys.readouterr().out.splitlines() == [text, text]


@pytest.mark.parametrize("acked", [48, 47])
def test_a_verdict_is_printed_on_a_terminal_that_knows_only_ascii(
    monkeypatch: pytest.MonkeyPatch, acked: int
) -> None:
    written = ascii_output(monkeypatch)

    print_verdict(replace(RESULT, reports_acked=acked), make_console(width=140))

    page = written.getvalue().decode("ascii")
    assert f"{acked} reports acknowledged, 48 counted: they {'agree' if acked == 48 else 'differ'}" in page
    assert "\\u" not in page


def test_the_page_of_a_fleet_has_every_bracket_on_such_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = ascii_output(monkeypatch)
    stats = FleetStats(())
    stats.session_shapes["-v[]+[/x]^"] += 1
    console = make_console(width=100)

    console.print(summary_table(stats))
    console.print(Text(status_line(stats)))
    console.print("\u2713 \ud800")

    page = written.getvalue().decode("ascii")
    assert "session -v[]+[/x]^" in page
    assert page.count("\\u") == 2


def test_a_fleet_whose_reports_all_wait_is_told_for_what() -> None:
    alone, acked, idle = FleetStats(()), FleetStats(()), FleetStats(())
    for stats in (alone, acked):
        stats.call_errors["report: report_pending"] += 3
    acked.reports_acked = 1

    assert "min_flush_clients" in unacknowledged_hint(alone)
    assert (unacknowledged_hint(acked), unacknowledged_hint(idle)) == ("", "")


def test_a_run_says_how_many_users_have_too_little_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = [["five words in a message"] * (40 if user < 20 else 2) for user in range(320)]
    lines = [json.dumps({"user": f"u{user}", "messages": text}) for user, text in enumerate(texts)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    checked = SimpleNamespace(vocabulary=None, config=None)

    async def population(*_: object) -> SimpleNamespace:
        return checked

    def stop(*_: object) -> None:
        raise SimulatorError("far enough", SimulatorExitCode.INPUT)

    monkeypatch.setattr("keyflock_client_sim.drivers.population_info.fetch_population", population)
    monkeypatch.setattr("keyflock_client_sim.fleet.texts.encode_texts", stop)

    done = CliRunner().invoke(
        application.app,
        ["run", "--url", "http://127.0.0.1:1", "--data", str(tmp_path / "chat.jsonl"), "--population", "en"],
    )

    assert isinstance(done.exception, SimulatorError)
    assert "300 of 320 users have less text than the 100 words that are needed" in done.stderr
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "http://::1:8700", "http://h:99999", "http://h/v1"])
def test_an_address_that_is_none_is_told_before_anything_is_asked(url: str) -> None:
    done = CliRunner().invoke(application.app, ["run", "--url", url])

    assert isinstance(done.exception, SimulatorError)
    assert done.exception.code is SimulatorExitCode.USAGE
    assert str(done.exception).startswith("--url: ")


def test_the_choices_on_help_pages_are_those_that_are_taken() -> None:
    assert choices.SIZES.split("|") == list(SIZES)
    assert set(choices.PROFILES.split("|")) == {*PROFILES, "FILE.toml"}


@pytest.mark.parametrize("command", ["demo", "pretrain", "personalise", "drift", "modes", "compression"])
def test_every_command_with_a_size_lists_the_sizes(command: str) -> None:
    assert choices.SIZES in CliRunner().invoke(application.app, [command, "--help"]).stdout


@pytest.mark.usefixtures("_default_handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_ends_a_command_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    app, left = typer.Typer(), []

    @app.command()
    def wait() -> None:
        try:
            signal.raise_signal(number)
        finally:
            left.append("the block")

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        run_command(app, "program")

    assert ended.value.code == SimulatorExitCode.INTERRUPTED
    assert left == ["the block"]


@pytest.mark.usefixtures("_default_handlers")
def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    treat_signals_as_interrupt()

    assert signal.SIGHUP not in ending_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("_default_handlers")
@pytest.mark.parametrize("number", SIGNALS)
async def test_the_first_signal_lets_a_fleet_settle_and_the_second_ends_it(number: signal.Signals) -> None:
    treat_signals_as_interrupt()
    stopped = asyncio.Event()
    fleet = SimpleNamespace(stop=stopped.set)

    run_command_module._stop_on_interrupt(fleet)  # type: ignore[arg-type]  # all that it needs of a fleet
    signal.raise_signal(number)
    await stopped.wait()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_the_load_tests_list_their_scenarios_and_refuse_others_with_the_list() -> None:
    page = CliRunner().invoke(load_tests, ["--help"]).stdout
    refused = CliRunner().invoke(load_tests, ["nonsense"])

    assert "One of: steady_day" in page
    assert refused.exit_code == 2
    assert "steady_day" in refused.stderr


SEEDED = ["run", "demo", "pretrain", "evaluate", "personalise", "drift", "modes", "compression"]


@pytest.mark.parametrize("seed", [-1, 2**53])
@pytest.mark.parametrize("command", SEEDED)
def test_a_seed_that_some_part_cannot_take_is_refused_before_anything_begins(command: str, seed: int) -> None:
    ran = CliRunner().invoke(application.app, [command, "--seed", str(seed)])

    assert ran.exit_code == 2
    assert "--seed" in ran.output


def test_the_largest_seed_can_be_taken_by_each_part() -> None:
    np.random.default_rng((choices.MAX_SEED, 1))
    parts = jax.random.key_data(jax.random.key(choices.MAX_SEED))

    assert parts.shape == (2,)
