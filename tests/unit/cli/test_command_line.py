"""The command ``keyflock``: one line on standard error, a code for scripts to tell apart, JSON when asked."""

import codecs
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from keyflock_server.cli import main

TUTORIAL_TASK = Path(__file__).parents[3] / "docs" / "examples" / "tutorial.toml"
TASK = {
    "name": "next-word",
    "population": "en-US",
    "state": "active",
    "rounds_committed": 3,
    "rounds_abandoned": 0,
    "max_rounds": None,
    "spec": {"round": {"goal": 8}},
}


@dataclass
class CommandResult:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Runs the command in this process, with nothing in the environment that says where a server is."""
    for name in ("KEYFLOCK_ADMIN_URL", "KEYFLOCK_ADMIN_TOKEN", "KEYFLOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def ran(*arguments: str | Path) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["keyflock", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), captured.out, captured.err)

    return ran


@dataclass
class StandInAdminPort:
    """A stand-in for the admin port, which gives scripted answers and records requests."""

    url: str = ""
    status: int = 200
    answer: bytes = b"{}"
    #: What the first calls are answered, before ``answer``.
    earlier_answers: list[bytes] = field(default_factory=list)
    asked: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)
    media_types: list[str | None] = field(default_factory=list)


@pytest.fixture
def admin_port() -> Iterator[StandInAdminPort]:
    told = StandInAdminPort()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.media_types.append(self.headers["Content-Type"])
            told.asked.append((self.command, self.path, self.headers["Authorization"], body))
            content = told.earlier_answers.pop(0) if told.earlier_answers else told.answer
            self.send_response(told.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = answer  # noqa: N815 - the names that the base class calls

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the base class says
            """Stay quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("the-admin-token\n")
    return path


def one_line(ran: CommandResult) -> str:
    """The one line that a failed command leaves."""
    assert ran.out == ""
    assert ran.err.startswith("keyflock: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    return ran.err


def test_a_command_that_does_not_exist_is_a_usage_error(run: Callable[..., CommandResult]) -> None:
    ran = run("task", "frobnicate")

    assert ran.code == 2
    assert "frobnicate" in one_line(ran)


def test_a_missing_argument_is_a_usage_error(run: Callable[..., CommandResult]) -> None:
    ran = run("task", "show")

    assert ran.code == 2
    assert "TASK" in one_line(ran)


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("task", "create", "--help")])
def test_help_ends_well(run: Callable[..., CommandResult], arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)

    assert ran.code == 0
    assert "Usage" in ran.out


@pytest.mark.parametrize(("typed", "offered"), [("keyflock rel", "release"), ("keyflock task pau", "pause")])
def test_a_shell_can_complete_commands(typed: str, offered: str) -> None:
    asked = {"_KEYFLOCK_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}

    ended = subprocess.run(
        [Path(sys.executable).with_name("keyflock")], env=asked, capture_output=True, text=True, check=True
    )

    assert ended.stdout.split() == [offered]


def test_the_version_is_one_word_or_json(run: Callable[..., CommandResult]) -> None:
    assert run("version").out.strip() == json.loads(run("version", "--json").out)["version"]


def test_a_command_that_is_not_told_where_the_server_is_says_how(run: Callable[..., CommandResult]) -> None:
    ran = run("task", "list")

    assert ran.code == 2
    assert "--data-dir" in one_line(ran)


def test_a_data_folder_without_a_server_is_unreachable(
    run: Callable[..., CommandResult], tmp_path: Path
) -> None:
    ran = run("task", "list", "--data-dir", tmp_path)

    assert ran.code == 3
    assert "No server runs" in one_line(ran)


def test_an_address_where_nobody_listens_is_unreachable(
    run: Callable[..., CommandResult], token_file: Path
) -> None:
    ran = run("task", "list", "--url", "http://127.0.0.1:1", "--token-file", token_file)

    assert ran.code == 3
    assert "http://127.0.0.1:1" in one_line(ran)


@pytest.mark.fault("F7")
def test_a_byte_order_mark_is_no_part_of_a_task_file_or_a_token(
    run: Callable[..., CommandResult], tmp_path: Path
) -> None:
    task = tmp_path / "task.toml"
    task.write_bytes(codecs.BOM_UTF8 + TUTORIAL_TASK.read_bytes())
    token = tmp_path / "marked"
    token.write_text("the-admin-token\n", encoding="utf-8-sig")

    ran = run(
        "task", "create", task, "--reason", "a test", "--url", "http://127.0.0.1:1", "--token-file", token
    )

    # Both files were read: only the server is missing.
    assert ran.code == 3
    assert "http://127.0.0.1:1" in one_line(ran)


def test_an_address_that_is_none_is_a_usage_error(
    run: Callable[..., CommandResult], token_file: Path
) -> None:
    ran = run("task", "list", "--url", "file:///etc/passwd", "--token-file", token_file)

    assert ran.code == 2
    assert "file:///etc/passwd" in one_line(ran)


def test_no_token_is_a_matter_of_credentials(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    ran = run("task", "list", "--url", admin_port.url)

    assert ran.code == 4
    assert "--token-file" in one_line(ran)


def test_a_wrong_token_is_a_matter_of_credentials_and_is_not_repeated(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.status = 401
    admin_port.answer = b'{"title": "Not this server\'s.", "detail": "Look again.", "code": "token_invalid"}'

    ran = run("task", "list", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 4
    assert one_line(ran) == "keyflock: Look again. (token_invalid)\n"


def test_a_refusal_is_told_in_the_servers_words(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.status = 404
    admin_port.answer = b'{"title": "No such task.", "detail": "There is no task x.", "code": "task_unknown"}'

    ran = run("task", "show", "x", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 1
    assert one_line(ran) == "keyflock: No such task. There is no task x. (task_unknown)\n"


@pytest.mark.parametrize(("status", "answer"), [(200, b"<html>"), (502, b"<html>"), (200, b"")])
def test_something_else_at_the_address_is_no_keyflock(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    status: int,
    answer: bytes,
) -> None:
    admin_port.status, admin_port.answer = status, answer

    ran = run("task", "list", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code in (1, 3)
    assert "keyflock admin port" in one_line(ran)


def test_the_servers_answer_is_printed_as_it_is_with_json(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(TASK).encode()

    ran = run(
        "task",
        "pause",
        "next-word",
        "--reason",
        "a test",
        "--json",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )

    assert ran.code == 0
    assert json.loads(ran.out) == TASK
    assert admin_port.asked == [
        ("POST", "/admin/v1/tasks/next-word/pause", "Bearer the-admin-token", b'{"reason": "a test"}')
    ]


def test_a_table_has_a_row_for_each_task(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"items": [TASK, {**TASK, "name": "another"}], "next": None}).encode()

    ran = run("task", "list", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["name", "next-word", "another"]


def test_a_name_is_quoted_in_the_address(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    run("task", "show", "../populations", "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][1] == "/admin/v1/tasks/..%2Fpopulations"


def test_the_environment_says_where_the_server_is(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYFLOCK_ADMIN_URL", admin_port.url)
    monkeypatch.setenv("KEYFLOCK_ADMIN_TOKEN", "from-the-environment")
    admin_port.answer = b'{"items": [], "next": null}'

    ran = run("population", "list")

    assert ran.code == 0
    assert admin_port.asked[0][2] == "Bearer from-the-environment"


def test_the_data_folder_says_where_the_server_is(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"admin_url": admin_port.url}))
    (tmp_path / "admin_token").write_text("from-the-folder\n")
    admin_port.answer = b'{"items": [], "next": null}'

    ran = run("round", "list", "next-word", "--data-dir", tmp_path)

    assert ran.code == 0
    assert admin_port.asked[0][1:3] == (
        "/admin/v1/rounds?limit=1000&task=next-word",
        "Bearer from-the-folder",
    )


def test_a_checkpoint_that_is_not_there_is_named(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.safetensors"

    ran = run(
        "population",
        "create",
        "en-US",
        missing,
        "--reason",
        "a test",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )

    assert ran.code == 5
    assert str(missing) in one_line(ran)
    assert admin_port.asked == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[task\n", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b'[task]\nname = 7\npopulation = "en"\n[round]\ngoal = 4\n', "name"),
    ],
)
def test_a_task_file_that_is_wrong_is_named_with_its_mistake_and_not_sent(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    tmp_path: Path,
    text: bytes,
    expected: str,
) -> None:
    file = tmp_path / "task.toml"
    file.write_bytes(text)

    ran = run(
        "task", "create", file, "--reason", "a test", "--url", admin_port.url, "--token-file", token_file
    )

    assert ran.code == 5
    assert str(file) in one_line(ran)
    assert expected in ran.err
    assert admin_port.asked == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--data-dir"),
        (("--data-dir", "D", "--port", "99999"), "--port"),
        (("--data-dir", "D", "--log-format", "xml"), "--log-format"),
    ],
)
def test_a_server_with_a_wrong_setting_does_not_start(
    run: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    ran = run("serve", *arguments)

    assert ran.code == 6
    assert expected in one_line(ran)


def test_a_head_key_is_made_and_rotated_and_never_shown(
    run: Callable[..., CommandResult], tmp_path: Path
) -> None:
    file = tmp_path / "head_keys"

    first, second = run("heads", "add-key", file, "--json"), run("heads", "add-key", file, "--json")

    assert json.loads(first.out)["retired"] == []
    assert json.loads(second.out)["retired"] == [json.loads(first.out)["key"]]
    assert not any(line in first.out + second.out for line in file.read_text().split())


def test_a_key_file_that_is_none_is_left_alone_with_one_line(
    run: Callable[..., CommandResult], tmp_path: Path
) -> None:
    file = tmp_path / "head_keys"
    file.write_text("no key\n")
    file.chmod(0o600)

    ran = run("heads", "add-key", file)

    assert (ran.code, ran.out) == (2, "")
    assert "key 1: not base64url of 32 bytes" in ran.err
    assert file.read_text() == "no key\n"


def test_a_server_does_not_start_without_the_head_keys_that_it_was_told_of(
    run: Callable[..., CommandResult], tmp_path: Path
) -> None:
    ran = run("serve", "--data-dir", tmp_path / "data", "--head-keys", tmp_path / "none", "--port", "0")

    assert ran.code == 6
    assert "keyflock heads add-key" in ran.err
    assert "Traceback" not in ran.err
