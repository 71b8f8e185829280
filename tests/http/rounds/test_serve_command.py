"""``keyflock serve`` as operators run it: a process of its own."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from keyflock_server.data_folder import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.rounds.conftest import TinyTask

PROGRAM = [sys.executable, "-m", "keyflock_server"]
BECAUSE = ("--reason", "a test")


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server process and what it said when it was ready."""
    command = [
        *PROGRAM,
        "serve",
        "--data-dir",
        str(folder),
        "--port",
        "0",
        "--admin-port",
        "0",
        "--json",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_announces_itself_warns_and_leaves_well(tmp_path: Path, number: signal.Signals) -> None:
    data, announced = tmp_path / "data", tmp_path / "announced.json"

    with serving(data, "--announce", str(announced), "--log-format", "json") as (process, announced_line):
        written = json.loads(announced.read_text())
        with urlopen(announced_line["sdk_url"] + "/readyz") as answer:  # noqa: S310 - our own server, just started
            ready = answer.status
        process.send_signal(number)
        out, err = process.communicate(timeout=120)

    secrets = [(data / name).read_text().strip() for name in ("admin_token", "owner_key", "signing_key")]
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert written == {
        "sdk_url": announced_line["sdk_url"],
        "admin_url": announced_line["admin_url"],
        "pid": process.pid,
    }
    assert announced_line["admin_token_file"] == str(data / "admin_token")
    assert ready == 200
    assert process.returncode == 0
    assert events[0] == "open files"
    assert events[1].startswith("attestation is off")
    assert events[-2:] == ["stopping", "stopped"]
    assert [secret for secret in secrets if secret in out + err + json.dumps(announced_line)] == []
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.glob("*_*")} == {
        "admin_token": 0o600,
        "owner_key": 0o600,
        "signing_key": 0o600,
    }


def test_nobody_else_on_the_machine_can_read_what_a_server_keeps(tmp_path: Path, tiny_task: TinyTask) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(tiny_task.checkpoint)

    with serving(data):
        made = run("population", "create", "en-US", str(checkpoint), *BECAUSE, "--data-dir", str(data))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*")}
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {"keyflock.sqlite3", "keyflock.sqlite3-wal", "blobs", "versions"} <= modes.keys()
    assert [name for name, mode in modes.items() if mode & 0o077] == []


@pytest.mark.parametrize(
    ("before", "inside", "after"),
    [
        (0o755, [], 0o700),
        (0o755, ["lock", "keyflock.sqlite3"], 0o700),
        (0o750, ["lock"], 0o750),
        (0o755, ["something else"], 0o755),
    ],
    ids=["empty", "a data folder", "opened to a group", "not ours"],
)
def test_a_folder_is_closed_to_others_only_if_it_is_ours(
    tmp_path: Path, before: int, inside: list[str], after: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in inside:
        (folder / name).touch()
    folder.chmod(before)

    DataFolder.open(folder).release()

    assert stat.S_IMODE(folder.stat().st_mode) == after


def test_a_second_server_is_turned_away_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as (process, announced_line):
        port = announced_line["sdk_url"].rsplit(":", 1)[1]

        same_folder = run("serve", "--data-dir", str(tmp_path / "data"), "--port", "0", "--admin-port", "0")
        same_port = run("serve", "--data-dir", str(tmp_path / "other"), "--port", port, "--admin-port", "0")

    assert (same_folder.returncode, same_port.returncode) == (6, 6)
    assert same_folder.stderr.splitlines()[-1] == (
        f"keyflock: The data folder {tmp_path / 'data'} is in use by another server (process {process.pid})."
    )
    assert same_port.stderr.splitlines()[-1] == (
        f"keyflock: Cannot listen on 127.0.0.1 port {port}: another program has it."
    )
    assert "Traceback" not in same_folder.stderr + same_port.stderr


def test_a_database_that_is_none_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "keyflock.sqlite3").write_bytes(b"this is not a database, whatever its name says" * 100)

    ran = run("serve", "--data-dir", str(tmp_path), "--port", "0", "--admin-port", "0")

    assert ran.returncode == 8
    assert ran.stderr.splitlines()[-1].startswith("keyflock: ")
    assert "Traceback" not in ran.stderr


def test_an_operator_steers_a_task_from_the_command_line(tmp_path: Path, tiny_task: TinyTask) -> None:
    checkpoint, task = tmp_path / "model.safetensors", tmp_path / "task.toml"
    checkpoint.write_bytes(tiny_task.checkpoint)
    task.write_text(tiny_task.task)
    folder = ("--data-dir", str(tmp_path / "data"))

    with serving(tmp_path / "data"):
        created = run("population", "create", "en-US", str(checkpoint), *BECAUSE, *folder)
        started = run("task", "create", str(task), *BECAUSE, *folder, "--json")
        listed = run("task", "list", *folder)
        unknown = run("task", "show", "nobody", *folder)
        ended = run("task", "cancel", "next-word", *BECAUSE, *folder, "--json")
    gone = run("task", "list", *folder)

    assert created.returncode == 0, created.stderr
    assert json.loads(started.stdout)["state"] == "active"
    assert listed.stdout.splitlines()[1].split()[:3] == ["next-word", "en-US", "active"]
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert json.loads(ended.stdout)["state"] == "cancelled"
    assert (gone.returncode, gone.stderr.count("\n")) == (3, 1)
