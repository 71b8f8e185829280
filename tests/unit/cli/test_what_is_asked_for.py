"""What an operator gets wrong on the command line or in the environment, and is told."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

from keyflock_server.cli import output
from keyflock_server.settings import Settings, SettingsError, misspelt_variables, variables_without_effect

__all__ = ["admin_port", "run", "token_file"]  # fixtures

pytestmark = pytest.mark.fault("F14")


@pytest.mark.parametrize("source", ["option", "environment"])
def test_an_address_without_http_is_told_what_is_missing(
    run: Callable[..., CommandResult], token_file: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("KEYFLOCK_ADMIN_URL", "127.0.0.1:8701")
    given = ("--url", "127.0.0.1:8701") if source == "option" else ()

    ran = run("task", "list", *given, "--token-file", token_file)

    assert ran.code == 2
    assert "http:// is missing. Try http://127.0.0.1:8701." in ran.err


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (("population", "delete"), ("--confirm", "", "--reason", "a test")),
        (("population", "rename"), ("--to", "fr", "--reason", "a test")),
        (("task", "cancel"), ("--reason", "a test")),
        (("round", "show"), ()),
        (("device", "show"), ()),
    ],
)
def test_an_empty_name_is_told_as_such_and_no_call_is_made(
    run: Callable[..., CommandResult],
    token_file: Path,
    command: tuple[str, ...],
    options: tuple[str, ...],
    name: str,
) -> None:
    ran = run(*command, name, *options, "--url", "http://127.0.0.1:1", "--token-file", token_file)

    assert ran.code == 2
    assert f"of the {command[0]} is empty" in ran.err


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KEYFLOCK_DATABSE", "KEYFLOCK_DATABASE"),
        ("KEYFLOCK_DATABASE_URL", "KEYFLOCK_DATABASE"),
        ("KEYFLOCK_DATA_DIRECTORY", "KEYFLOCK_DATA_DIR"),
        ("KEYFLOCK_LOGLEVEL", "KEYFLOCK_LOG_LEVEL"),
        ("KEYFLOCK_PROT", "KEYFLOCK_PORT"),
        ("KEYFLOCK_BLOB", "KEYFLOCK_BLOBS"),
        ("KEYFLOCK_TICK_SECONDS", "KEYFLOCK_TICK_S"),
        ("KEYFLOCK_SHUTDOWN_GRACE", "KEYFLOCK_SHUTDOWN_GRACE_S"),
        ("KEYFLOCK_ADMIN_TOKN", "KEYFLOCK_ADMIN_TOKEN"),
        ("KEYFLOCK__PORT", "KEYFLOCK_PORT"),
        ("KEYFLOCKPORT", "KEYFLOCK_PORT"),
        ("keyflock_port", "KEYFLOCK_PORT"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert misspelt_variables({name: "x"}) == {name: meant}
    with pytest.raises(SettingsError, match=f"{name} is no variable of keyflock; {meant} is"):
        Settings.read({"data_dir": Path("d")}, {name: "x"})


@pytest.mark.parametrize("command", [("task", "list"), ("db", "prune", "--dry-run"), ("serve",)])
def test_every_command_refuses_a_misspelt_variable(
    run: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KEYFLOCK_DATABSE", "postgresql://u:hunter2@h/d")

    ran = run(*command)

    assert ran.code == (6 if command == ("serve",) else 2)
    assert "KEYFLOCK_DATABSE is no variable of keyflock; KEYFLOCK_DATABASE is." in ran.err
    assert "hunter2" not in ran.err


def test_a_variable_that_is_like_none_keeps_no_server_from_starting() -> None:
    others = {
        "KEYFLOCK_SERVICE_HOST": "10.0.0.1",  # Kubernetes, for a service named keyflock
        "KEYFLOCK_PORT_8700_TCP": "tcp://10.0.0.1:8700",
        "KEYFLOCK_ADMIN_SERVICE_PORT": "8701",
        "KEYFLOCK_MAX_CONNECTIONS_PER_NETWORK": "7",  # perhaps of a later release
    }

    settings = Settings.read({"data_dir": Path("d")}, others)

    assert settings.port == 8700
    assert misspelt_variables(others) == {}
    assert variables_without_effect(others) == {
        "KEYFLOCK_ADMIN_SERVICE_PORT": "KEYFLOCK_ADMIN_PORT",
        "KEYFLOCK_MAX_CONNECTIONS_PER_NETWORK": "KEYFLOCK_MAX_CONNECTIONS",
        "KEYFLOCK_PORT_8700_TCP": "",
        "KEYFLOCK_SERVICE_HOST": "",
    }


def test_every_variable_that_any_of_our_programs_reads_is_known() -> None:
    read = {f"KEYFLOCK_{name.upper()}": "" for name in Settings.__dataclass_fields__}
    read |= {"KEYFLOCK_ADMIN_URL": "", "KEYFLOCK_ADMIN_TOKEN": "", "KEYFLOCK_DATA": ""}

    assert misspelt_variables(read) == {}
    assert variables_without_effect(read) == {}


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("LOG_FORMAT", "xml", "one of json, console was expected"),
        ("LOG_LEVEL", "info", "one of DEBUG, INFO, WARNING, ERROR was expected"),
        ("SUGGESTIONS", "maybe", "one of true, false, 1, 0 was expected"),
    ],
)
def test_a_setting_that_has_choices_is_refused_with_all_of_them(name: str, value: str, choices: str) -> None:
    with pytest.raises(SettingsError) as by_variable:
        Settings.read({"data_dir": Path("d")}, {f"KEYFLOCK_{name}": value})
    with pytest.raises(SettingsError) as by_option:
        Settings.read({"data_dir": Path("d"), name.lower(): value}, {})

    assert f"KEYFLOCK_{name}: " in str(by_variable.value)
    assert f"--{name.lower().replace('_', '-')}: " in str(by_option.value)
    assert choices in str(by_variable.value)
    assert choices in str(by_option.value)


def test_the_help_of_serve_lists_the_choices(run: Callable[..., CommandResult]) -> None:
    page = run("serve", "--help").out

    assert "--log-level DEBUG|INFO|WARNING|ERROR" in page
    assert "--log-format json|console" in page


def test_a_bare_command_prints_its_help(run: Callable[..., CommandResult]) -> None:
    ran = run("task")

    assert (ran.code, ran.err) == (2, "")
    assert ran.out.startswith("Usage: ")
    assert "\n" in ran.out.strip()


def test_every_problem_of_a_task_file_has_a_line_and_nothing_is_sent(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "task.toml"
    file.write_text('[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\ngaol = 3\nepochs = 2\n')

    ran = run(
        "task", "create", file, "--reason", "a test", "--url", admin_port.url, "--token-file", token_file
    )

    assert ran.code == 5
    assert ran.err.splitlines() == [
        f"keyflock: {file}: 2 problems",
        "  round: unknown field `gaol`; did you mean goal.",
        "  round: unknown field `epochs`; it belongs to [training] or to [personalising.heads].",
    ]
    assert admin_port.asked == []


def test_every_problem_that_a_server_finds_has_a_line(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.status = 422
    admin_port.answer = json.dumps(
        {"title": "No task.", "detail": "a. b.", "code": "invalid_task", "problems": ["a.", "b."]}
    ).encode()

    ran = run("task", "show", "x", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 1
    assert ran.err == "keyflock: No task. (invalid_task)\n  a.\n  b.\n"


def test_a_text_of_others_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["reason"], [{"reason": "a\x9b31m\u202eb\x1b[2J"}])

    assert "a?31m?b?[2J" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_is_printed_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    texts = {"plain": "a", "check": "\u2713", "accent": "\u00e9", "half": "\ud800", "box": "[/x] [bold]"}

    output.print_fields(texts)
    output.print_table(list(texts), [texts])
    sys.stdout.flush()

    page = written.getvalue().decode(encoding)
    assert "\\ud800" in page
    assert page.count("[/x] [bold]") == 2
    assert ("\u2713" if encoding == "utf-8" else "\\u2713") in page


def test_what_is_inside_a_list_is_shown_by_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields(
        {
            "locales": ["en", "de-CH"],
            "heads": [{"rank": 8, "l2": 0.001}, {"rank": 4}],
            "strikes": [{"at": "2026-01-01T00:00:00.5Z"}],
            "empty": [],
            "nothing": {},
        }
    )

    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [[name, value.strip()] for name, value in rows] == [
        ["locales", "en, de-CH"],
        ["heads[0].rank", "8"],
        ["heads[0].l2", "0.001"],
        ["heads[1].rank", "4"],
        ["strikes[0].at", "2026-01-01 00:00:00"],
    ]
