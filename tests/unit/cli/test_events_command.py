"""``keyflock events`` prints a line an event, for people or for programs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures

EVENT = b'{"kind":"round_opened","at":"2026-03-01T12:00:00Z","round":"t-1"}'
STREAM = b": connected\nretry: 2000\n\nid: p-1\nevent: round_opened\ndata: " + EVENT + b"\n\n: still here\n\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [((), "2026-03-01T12:00:00Z round_opened round=t-1"), (("--json",), EVENT.decode())],
)
def test_an_event_is_a_line(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    options: tuple[str, ...],
    line: str,
) -> None:
    admin_port.answer = STREAM

    ran = run("events", "--population", "en", *options, "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][:2] == ("GET", "/admin/v1/events?population=en")
    assert (ran.code, ran.out.splitlines()) == (0, [line])


def test_a_refused_stream_ends_with_the_problem(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.status = 503
    admin_port.answer = b'{"code": "overloaded", "title": "Too much to do.", "detail": "16 readers."}'

    ran = run("events", "--follow", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 1
    assert "16 readers." in ran.err
