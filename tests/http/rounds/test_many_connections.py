"""A server at the limit of open files: both ports go on, and the log says what happens."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

LIMIT = 400
#: More than the process may have open, for each of the ports.
HALF_OPEN = 420
PROGRAM = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
from keyflock_server.cli import main
main()
"""


@pytest.mark.fault("D14")
def test_more_half_open_requests_than_open_files_leave_both_ports_working(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "serve", "--data-dir", str(tmp_path / "data"), "--json"]
    command += ["--port", "0", "--admin-port", "0", "--log-format", "json"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        statuses = [
            _statuses_beside_half_open(ready[attacked], ready["sdk_url"], ready["admin_url"])
            for attacked in ("sdk_url", "admin_url")
        ]
        process.terminate()
        process.wait(timeout=120)
    finally:
        process.kill()
        process.communicate()

    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert statuses == [[200] * 5] * 2
    assert process.returncode == 0
    assert [event["limit"] for event in told if event["event"] == "open files"] == [LIMIT]
    gave_way = [event["port"] for event in told if event["event"].startswith("idle connections give way")]
    assert gave_way == ["phones", "operators"]
    assert [event for event in told if event["level"] in {"error", "critical"}] == []


@pytest.mark.fault("D14")
def test_a_server_without_a_free_descriptor_says_so_and_goes_on_when_there_is_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "serve", "--data-dir", str(tmp_path / "data"), "--json"]
    command += ["--port", "0", "--admin-port", "0", "--log-format", "json"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        in_use = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (in_use - 2, LIMIT))
        while "no file can be opened" not in log.read_text() and process.poll() is None:
            pass
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        with urlopen(ready["sdk_url"] + "/healthz", timeout=120) as answer:  # noqa: S310 - our own server
            status = answer.status
    finally:
        process.kill()
        process.communicate()

    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert status == 200
    shortages = [event["errno"] for event in told if event["event"].startswith("no file can be")]
    assert shortages == ["24 Too many open files"]


def _statuses_beside_half_open(attacked: str, sdk_url: str, admin_url: str) -> list[int]:
    """What the probes say while so many heads are on their way to one of the ports."""
    host, port = attacked.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(HALF_OPEN):
            caller = stack.enter_context(socket.create_connection((host, int(port)), timeout=120))
            caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-More: ")
        addresses = [sdk_url + "/healthz", sdk_url + "/readyz"]
        addresses += [admin_url + path for path in ("/healthz", "/readyz", "/metrics")]
        statuses = []
        for address in addresses:
            with urlopen(address, timeout=120) as answer:  # noqa: S310 - our own server, just started
                statuses.append(answer.status)
        return statuses
