"""The tasks that ``create`` and ``dry-run`` read: TOML or JSON, of a file or of standard input."""

import codecs
import io
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import (
    TASK,
    TUTORIAL_TASK,
    CommandResult,
    StandInAdminPort,
    admin_port,
    run,
    token_file,
)

__all__ = ["admin_port", "run", "token_file"]  # fixtures

TOML_BODY = TUTORIAL_TASK.read_bytes()
JSON_BODY = json.dumps(tomllib.loads(TOML_BODY.decode())).encode()


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (TOML_BODY, "application/toml"),
        (JSON_BODY, "application/json"),
        (b"\n " + JSON_BODY, "application/json"),
        (codecs.BOM_UTF8 + JSON_BODY, "application/json"),
        (codecs.BOM_UTF8 + TOML_BODY, "application/toml"),
    ],
)
@pytest.mark.parametrize("is_piped", [False, True])
def test_a_task_is_sent_as_what_it_is_written_in(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    media_type: str,
    is_piped: bool,
) -> None:
    admin_port.answer = json.dumps(TASK).encode()
    file = tmp_path / "a task"
    file.write_bytes(body)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))

    source = "-" if is_piped else file
    ran = run(
        "task", "create", source, "--reason", "a test", "--url", admin_port.url, "--token-file", token_file
    )

    assert (ran.code, ran.err) == (0, "")
    assert [sent for *_, sent in admin_port.asked] == [body.removeprefix(codecs.BOM_UTF8)]
    assert admin_port.media_types == [media_type]


@pytest.mark.parametrize("command", ["create", "dry-run"])
def test_a_mistake_in_a_piped_task_is_told_before_a_call_is_made(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{not JSON")))

    reason = ("--reason", "a test") if command == "create" else ()
    ran = run("task", command, "-", *reason, "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 5
    assert ran.err == "keyflock: standard input: The task is not JSON.\n"
    assert admin_port.asked == []
