"""``keyflock task change | pause --until | dry-run …`` and ``round close | abandon``: one call each."""

import json
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

Run = Callable[..., CommandResult]


@pytest.mark.parametrize(
    ("command", "call", "order"),
    [
        ("task change t --goal 8 --deadline 30", "PATCH /tasks/t", {"goal": 8, "deadline_s": 30.0}),
        (
            "task pause t --until 2026-12-01T08:00:00Z",
            "POST /tasks/t/pause",
            {"until": "2026-12-01T08:00:00Z"},
        ),
        ("task archive t", "POST /tasks/t/archive", {}),
        ("task unarchive t", "POST /tasks/t/unarchive", {}),
        ("population archive en", "POST /populations/en/archive", {}),
        ("population unarchive en", "POST /populations/en/unarchive", {}),
        ("round close t-1", "POST /rounds/t-1/close", {}),
        ("round abandon t-1", "POST /rounds/t-1/abandon", {"drop": False}),
        ("round abandon t-1 --drop", "POST /rounds/t-1/abandon", {"drop": True}),
    ],
)
def test_an_order_is_one_call_with_its_reason_and_values(
    run: Run,
    admin_port: StandInAdminPort,
    token_file: Path,
    command: str,
    call: str,
    order: dict[str, object],
) -> None:
    admin_port.answer = json.dumps(TASK).encode()

    where = ("--url", admin_port.url, "--token-file", token_file)
    ran = run(*command.split(), "--reason", "a test", *where)

    method, path, _, body = admin_port.asked[0]
    assert (ran.code, f"{method} {path}") == (0, call.replace(" ", " /admin/v1"))
    assert json.loads(body) == {"reason": "a test"} | order


def test_a_change_without_a_value_asks_nobody(
    run: Run, admin_port: StandInAdminPort, token_file: Path
) -> None:
    where = ("--url", admin_port.url, "--token-file", token_file)
    ran = run("task", "change", "t", "--reason", "a test", *where)

    assert ran.code == 2
    assert "--goal" in ran.err
    assert admin_port.asked == []


def test_a_dry_run_that_would_be_refused_says_why_and_fails(
    run: Run, admin_port: StandInAdminPort, token_file: Path
) -> None:
    told = {"is_accepted": False, "problems": [], "conflicts": ["There is a task of this name."]}
    admin_port.answer = json.dumps(told).encode()

    ran = run("task", "dry-run", TUTORIAL_TASK, "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][:2] == ("POST", "/admin/v1/tasks/dry-run")
    assert ran.code == 1
    assert "There is a task of this name." in ran.err


def test_a_history_is_a_table(run: Run, admin_port: StandInAdminPort, token_file: Path) -> None:
    items = [{"at": "2026-12-01T08:00:00Z", "what": "task.pause", "operator": "ann", "detail": "night"}]
    admin_port.answer = json.dumps({"items": items}).encode()

    ran = run("task", "history", "t", "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][1] == "/admin/v1/tasks/t/history?limit=1000"
    assert "task.pause" in ran.out
