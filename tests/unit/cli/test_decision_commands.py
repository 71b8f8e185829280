"""``keyflock round accept | discard``, ``population rollback``: one call each, never without a reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import (
    TASK,
    CommandResult,
    StandInAdminPort,
    admin_port,
    run,
    token_file,
)

__all__ = ["admin_port", "run", "token_file"]  # fixtures

HELD = {
    "id": "t-1",
    "task": "t",
    "phase": "held",
    "counted": 6,
    "goal": 6,
    "detail": "The step has norm 89.81, more than 30 times the longest mean delta.",
    "figures": {"step_norm": 89.81, "mean_delta_norm": 0.35},
}
POPULATION = {"name": "en-US", "model_version": 3, "devices": 7, "anchor_text": "no anchor text: …"}


@pytest.mark.fault("D8")
@pytest.mark.parametrize("decision", ["accept", "discard"])
def test_a_decision_is_one_call_with_its_reason(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path, decision: str
) -> None:
    admin_port.answer = json.dumps(HELD).encode()

    ran = run(
        "round", decision, "t-1", "--reason", "a slip", "--url", admin_port.url, "--token-file", token_file
    )

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", f"/admin/v1/rounds/t-1/{decision}")
    assert json.loads(body) == {"reason": "a slip"}
    assert "more than 30 times the longest mean delta" in ran.out


@pytest.mark.fault("D9")
def test_a_rollback_is_one_call_with_its_version_and_reason(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(POPULATION).encode()

    ran = run(
        *("population", "rollback", "en-US", "--to", "0", "--reason", "worse"),
        *("--url", admin_port.url, "--token-file", token_file),
    )

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/populations/en-US/rollback")
    assert json.loads(body) == {"to": 0, "reason": "worse"}
    assert "no anchor text" in ran.out


@pytest.mark.fault("D8")
@pytest.mark.parametrize(
    "command",
    [("round", "accept", "t-1"), ("round", "discard", "t-1"), ("population", "rollback", "en", "--to", "1")],
)
def test_none_goes_without_a_reason(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    command: tuple[str, ...],
) -> None:
    ran = run(*command, "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 2
    assert admin_port.asked == []


@pytest.mark.fault("D8")
def test_lists_of_rounds_and_tasks_show_what_is_held_and_why(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"items": [HELD], "next": None}).encode()
    rounds = run("round", "list", "t", "--url", admin_port.url, "--token-file", token_file)
    admin_port.answer = json.dumps({"items": [TASK | {"held_round": "next-word-4"}], "next": None}).encode()
    tasks = run("task", "list", "--url", admin_port.url, "--token-file", token_file)

    assert "held" in rounds.out
    assert "more than 30 times" in rounds.out
    assert "next-word-4" in tasks.out
