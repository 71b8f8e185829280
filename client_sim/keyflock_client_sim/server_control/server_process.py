"""This module runs a keyflock server in a process of its own: on free loopback ports, ended whatever happens.

Four things end the server: leaving the ``with`` block (also by an exception or Ctrl-C), ``atexit``, the
kernel when the parent is killed (``dies_with_parent``), and SIGKILL when it does not follow SIGTERM in time.
It runs in its own session, so that a Ctrl-C at the terminal reaches the parent alone, and the parent decides
the order of ending.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02
_LOG_TAIL_LINES: Final = 5
#: All phones of a fleet have this machine's address; the environment may set other limits.
_FLEET_FROM_ONE_ADDRESS: Final = {
    "KEYFLOCK_MAX_ENROLMENTS_PER_MINUTE": "1000000",
    "KEYFLOCK_MAX_ENROLMENTS_PER_BLOCK_PER_HOUR": "1000000",
}


class ServerStartError(RuntimeError):
    """The server did not announce itself; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The addresses that a server announces once it accepts calls."""

    sdk_url: str
    admin_url: str
    pid: int


class ServerProcess:
    """A running server, its addresses and its data folder.

    Args:
        process: The child.
        announcement: The server's announcement.
        data_dir: The folder of SQLite, blobs and keys.
        log_path: The file of its output.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], announcement: Announcement, data_dir: Path, log_path: Path
    ) -> None:
        self._process = process
        self.sdk_url = announcement.sdk_url
        self.admin_url = announcement.admin_url
        self.pid = process.pid
        self.data_dir = data_dir
        self.log_path = log_path

    def admin_token(self) -> str:
        """Return the operator's bearer token, from the file that only the server's user may read."""
        return (self.data_dir / "admin_token").read_text(encoding="utf-8").strip()

    def is_alive(self) -> bool:
        """Return whether the child is still running."""
        return self._process.poll() is None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End the server and everything it started; return its exit code.

        Edge cases:
            already ended -> its exit code again; deaf to SIGTERM for ``timeout_s`` -> SIGKILL, code -9
        """
        return _end(self._process, timeout_s)

    def kill(self) -> None:
        """Kill the server as a power cut would: SIGKILL, nothing flushed."""
        _signal_group(self._process, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running_server(
    data_dir: Path,
    *,
    command: Sequence[str] | None = None,
    options: Sequence[str] = (),
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[ServerProcess]:
    """Run a server over ``data_dir`` for as long as the block lasts.

    Args:
        data_dir: Made when missing; an existing one is continued.
        command: Another program in the server's place, for tests; gets the same options appended.
        options: Further options of ``keyflock serve``.
        start_timeout_s: How long it may take until it announces itself.
    Guarantees:
        When the block is left, by whatever way, the process is gone.
    Raises:
        ServerStartError: it ended or stayed silent; nothing is left running.
    """
    server = start_server(data_dir, command=command, options=options, start_timeout_s=start_timeout_s)
    at_exit = server.stop
    atexit.register(at_exit)
    try:
        yield server
    finally:
        server.stop()
        atexit.unregister(at_exit)


def start_server(
    data_dir: Path,
    *,
    command: Sequence[str] | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> ServerProcess:
    """Start a server and wait until it accepts calls; prefer ``running_server``.

    The kernel ends the server with the thread that started it.

    Args:
        data_dir: As for ``running_server``.
        command: As for ``running_server``.
        options: Further options of ``keyflock serve``; of an option given twice the last one counts.
        environment: Variables beside those of this process, which they override.
        start_timeout_s: How long it may take until it announces itself.
    Raises:
        ServerStartError: it ended or stayed silent; nothing is left running.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    announce_path = data_dir / "announcement.json"
    announce_path.unlink(missing_ok=True)
    log_path = data_dir / "server.log"
    program = list(command or (sys.executable, "-m", "keyflock_server"))
    serve = ["serve", "--data-dir", str(data_dir), "--host", LOOPBACK, "--port", "0", "--admin-port", "0"]
    serve += ["--announce", str(announce_path), *options]
    binder = [sys.executable, "-m", "keyflock_client_sim.server_control.dies_with_parent", str(os.getpid())]
    with log_path.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own package
            [*binder, *program, *serve],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_FLEET_FROM_ONE_ADDRESS, **os.environ, **(environment or {})},
        )
    try:
        announcement = _await_announcement(process, announce_path, start_timeout_s)
    except BaseException as error:
        _end(process, STOP_TIMEOUT_S)
        if isinstance(error, ServerStartError):
            raise ServerStartError(f"{error}{_log_tail(log_path, log_start)}") from None
        raise
    return ServerProcess(process, announcement, data_dir, log_path)


def _await_announcement(
    process: subprocess.Popen[bytes], announce_path: Path, timeout_s: float
) -> Announcement:
    give_up_at = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at:
        if announce_path.exists():
            announced = json.loads(announce_path.read_bytes())
            return Announcement(announced["sdk_url"], announced["admin_url"], int(announced["pid"]))
        code = process.poll()
        if code is not None:
            raise ServerStartError(f"The server ended at once with code {code}.")
        time.sleep(_POLL_S)
    raise ServerStartError(f"The server did not announce itself within {timeout_s:.0f} s.")


def _log_tail(log_path: Path, start: int) -> str:
    with log_path.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").strip().splitlines()
    return f" Its last words ({log_path}): " + " | ".join(lines[-_LOG_TAIL_LINES:]) if lines else ""


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
    return process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        process.send_signal(number)
