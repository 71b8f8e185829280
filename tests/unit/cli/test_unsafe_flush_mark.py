"""A task whose stored sums may tell one phone's update is marked wherever an operator looks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures

pytestmark = pytest.mark.fault("D3")

MARKED = {"name": "mine", "id": "mine-1", "is_unsafe_flush": True}


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("task", "list"), {"items": [MARKED], "next": None}),
        (("task", "show", "mine"), MARKED),
        (("task", "pause", "mine", "--reason", "a test"), MARKED),
        (("round", "list", "mine"), {"items": [MARKED], "next": None}),
        (("round", "show", "mine-1"), MARKED),
    ],
    ids=["task list", "task show", "task pause", "round list", "round show"],
)
def test_the_mark_is_shown(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    command: tuple[str, ...],
    answer: dict[str, object],
) -> None:
    admin_port.answer = json.dumps(answer).encode()

    ran = run(*command, "--url", admin_port.url, "--token-file", token_file)

    words = ran.out.split()
    assert "yes" in words
    assert "is_unsafe_flush" in words or "unsafe" in words
