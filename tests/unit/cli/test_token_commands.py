"""``keyflock token``: a token is shown once or saved for its owner alone, and stands in no command."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import (
    CommandResult,
    StandInAdminPort,
    admin_port,
    one_line,
    run,
    token_file,
)

from keyflock_server.cli.serve import _announce
from keyflock_server.runtime.addresses import Addresses

__all__ = ["admin_port", "run", "token_file"]  # fixtures

TEXT = "kf_aaaabbbbccccdddd_" + "0f" * 24
VIEW = {
    "id": "aaaabbbbccccdddd",
    "name": "ci",
    "role": "viewer",
    "state": "active",
    "created_at": "2026-03-01T12:00:00Z",
    "created_by": "root",
    "expires_at": None,
    "revoked_at": None,
}
ORDER = ("create", "ci", "--role", "viewer", "--reason", "The build.")


@pytest.fixture
def token(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> Callable[..., CommandResult]:
    """Runs ``keyflock token`` against a port that creates every token."""
    admin_port.status, admin_port.answer = 201, json.dumps({"token": VIEW, "text": TEXT}).encode()

    def ran(*arguments: str | Path) -> CommandResult:
        return run("token", *arguments, "--url", admin_port.url, "--token-file", token_file)

    return ran


@pytest.mark.parametrize(
    ("expires", "lifetime_s"),
    [
        ((), None),
        (("--expires", "30m"), 1_800),
        (("--expires", "12h"), 43_200),
        (("--expires", "90d"), 7_776_000),
    ],
)
def test_a_token_is_created_and_shown_once(
    token: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    expires: tuple[str, ...],
    lifetime_s: int | None,
) -> None:
    ran = token(*ORDER, *expires)

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/tokens")
    assert json.loads(body) == {
        "name": "ci",
        "role": "viewer",
        "lifetime_s": lifetime_s,
        "reason": "The build.",
    }
    assert ran.code == 0
    assert ran.out.count(TEXT) == 1


@pytest.mark.parametrize("given", ["90", "d", "-1d", "1w", "1.5d", "tomorrow"])
def test_a_lifetime_that_cannot_be_read_is_refused_before_anything_is_created(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort, given: str
) -> None:
    ran = token(*ORDER, "--expires", given)

    assert ran.code == 2
    assert "30m, 12h or 90d" in one_line(ran)
    assert admin_port.asked == []


def test_a_token_that_is_saved_is_in_a_file_of_its_owner_and_nowhere_else(
    token: Callable[..., CommandResult], tmp_path: Path
) -> None:
    saved = tmp_path / "ci.token"

    ran = token(*ORDER, "--save", saved, "--json")

    assert saved.read_text() == f"{TEXT}\n"
    assert saved.stat().st_mode & 0o777 == 0o600
    assert TEXT not in ran.out + ran.err
    assert json.loads(ran.out)["token"]["id"] == VIEW["id"]


def test_a_file_that_is_there_is_kept_and_no_token_created(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    saved = tmp_path / "ci.token"
    saved.write_text("another")

    ran = token(*ORDER, "--save", saved)

    assert ran.code == 5
    assert "File exists" in one_line(ran)
    assert saved.read_text() == "another"
    assert admin_port.asked == []


def test_a_refused_creation_leaves_no_file(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    problem = {"code": "role_too_weak", "title": "The role.", "detail": "It is too weak."}
    admin_port.status, admin_port.answer = 403, json.dumps(problem).encode()

    ran = token(*ORDER, "--save", tmp_path / "ci.token")

    assert ran.code == 4
    assert one_line(ran) == "keyflock: It is too weak. (role_too_weak)\n"
    assert not (tmp_path / "ci.token").exists()


def test_a_role_that_does_not_exist_is_a_usage_error(token: Callable[..., CommandResult]) -> None:
    ran = token("create", "ci", "--role", "god", "--reason", "The build.")

    assert ran.code == 2
    assert "god" in one_line(ran)


def test_a_token_is_revoked_by_its_id(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    admin_port.status, admin_port.answer = 200, json.dumps(VIEW | {"state": "revoked"}).encode()

    ran = token("revoke", "aaaabbbbccccdddd", "--reason", "It leaked.")

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/tokens/aaaabbbbccccdddd/revoke")
    assert json.loads(body) == {"reason": "It leaked."}
    assert "revoked" in ran.out


def test_a_whole_token_in_a_command_is_refused_and_not_repeated(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    ran = token("revoke", TEXT, "--reason", "It leaked.")

    assert ran.code == 2
    assert "id alone" in one_line(ran)
    assert TEXT not in ran.err
    assert admin_port.asked == []


def test_tokens_are_listed_with_their_states(
    token: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    admin_port.status, admin_port.answer = 200, json.dumps({"items": [VIEW], "next": None}).encode()

    ran = token("list")

    assert all(part in ran.out for part in ("aaaabbbbccccdddd", "ci", "viewer", "active"))


@pytest.mark.parametrize(
    ("is_new", "is_terminal", "is_shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_the_first_token_is_shown_once_and_on_a_terminal_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_new: bool,
    is_terminal: bool,
    is_shown: bool,
) -> None:
    file = tmp_path / "admin_token"
    file.write_text(f"{TEXT}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)

    _announce(Addresses("http://a", "http://b", 1), file, as_json=False, is_new=is_new)

    printed = capsys.readouterr().out
    assert str(file) in printed
    assert (TEXT in printed) is is_shown
