"""``keyflock population rename | delete``: one call each, no deletion without the name typed again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures

pytestmark = pytest.mark.fault("F14")

RENAMED = {"name": "english", "id": "en-US", "former_names": ["en-US"], "model_version": 3, "devices": 7}


def test_a_new_name_is_one_call_and_the_former_ones_are_shown(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(RENAMED).encode()

    ran = run(
        *("population", "rename", "en-US", "--to", "english", "--reason", "a test"),
        *("--url", admin_port.url, "--token-file", token_file),
    )

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/populations/en-US/rename")
    assert json.loads(body) == {"to": "english", "reason": "a test"}
    shown = [line.split() for line in ran.out.splitlines()]
    assert ["name", "english"] in shown
    assert ["former_names", "en-US"] in shown


def test_the_list_shows_former_names(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    other = RENAMED | {"name": "de", "id": "de", "former_names": []}
    admin_port.answer = json.dumps({"items": [RENAMED, other], "next": None}).encode()

    ran = run("population", "list", "--url", admin_port.url, "--token-file", token_file)

    assert "en-US" in ran.out
    assert "[]" not in ran.out


def test_a_deletion_sends_what_was_typed_again(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"name": "en-US", "id": "en-US", "is_complete": True}).encode()

    ran = run(
        *("population", "delete", "en-US", "--confirm", "en-UK", "--reason", "a test"),
        *("--url", admin_port.url, "--token-file", token_file),
    )

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/populations/en-US/delete")
    assert json.loads(body) == {"confirm": "en-UK", "reason": "a test"}
    assert ran.code == 0


@pytest.mark.parametrize(
    "command",
    [("population", "delete", "en-US"), ("population", "rename", "en-US")],
    ids=["delete", "rename"],
)
def test_without_its_option_a_command_asks_the_server_nothing(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    command: tuple[str, ...],
) -> None:
    ran = run(*command, "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 2
    assert admin_port.asked == []
