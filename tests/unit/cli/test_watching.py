"""``--watch``: what is shown is shown again, and a server that goes away is waited for."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures


def a_round(phase: str) -> bytes:
    return json.dumps({"id": "next-word-1", "phase": phase}).encode()


@pytest.fixture
def watched(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., CommandResult]:
    """Watches a round; each pause takes the next of some functions' time, and Ctrl-C comes after the last."""

    def watch(*pauses: Callable[[], None]) -> CommandResult:
        left = list(pauses)

        def sleep(_: float) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(time, "sleep", sleep)
        return run(
            "round", "show", "next-word-1", "--watch", "--url", admin_port.url, "--token-file", token_file
        )

    return watch


def nothing() -> None:
    """Nothing happens in this pause."""


def test_a_pipe_gets_what_has_changed(
    watched: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    admin_port.earlier_answers = [a_round("collecting"), a_round("collecting"), a_round("closed")]

    ended = watched(nothing, nothing)

    assert [line.split() for line in ended.out.splitlines()] == [
        ["id", "next-word-1"],
        ["phase", "collecting"],
        ["id", "next-word-1"],
        ["phase", "closed"],
    ]
    assert len(admin_port.asked) == 3
    assert ended.code == 130


def test_a_terminal_is_redrawn_at_each_look(
    watched: Callable[..., CommandResult], admin_port: StandInAdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin_port.answer = a_round("collecting")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    ended = watched(nothing)

    assert ended.out.count("\x1b[H\x1b[2J") == 2
    assert ended.out.count("collecting") == 2


def test_a_server_that_goes_away_is_asked_again(
    watched: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    admin_port.earlier_answers = [a_round("collecting"), b"not JSON at all", a_round("closed")]

    ended = watched(nothing, nothing)

    assert "closed" in ended.out
    assert ended.err.startswith("keyflock: ")
    assert "Asking again." in ended.err


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_starts_again_is_waited_for(
    watched: Callable[..., CommandResult], admin_port: StandInAdminPort, status: int
) -> None:
    admin_port.answer = a_round("collecting")

    def starts() -> None:
        admin_port.status = status

    def is_ready() -> None:
        admin_port.status, admin_port.answer = 200, a_round("closed")

    ended = watched(starts, is_ready)

    assert "closed" in ended.out
    assert ended.err.count("Asking again.") == 1


def test_a_refusal_ends_it(watched: Callable[..., CommandResult], admin_port: StandInAdminPort) -> None:
    admin_port.answer = a_round("collecting")

    def is_revoked() -> None:
        admin_port.status = 401

    ended = watched(is_revoked, nothing)

    assert ended.code == 4
    assert len(admin_port.asked) == 2


def test_a_server_that_never_answered_is_not_waited_for(
    watched: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    admin_port.answer = b"not JSON at all"

    ended = watched(nothing)

    assert ended.code == 3
    assert len(admin_port.asked) == 1
