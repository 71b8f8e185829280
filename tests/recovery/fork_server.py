"""A fork server: one process imports the program, and each server is forked from it, which starts quickly.

Nine tenths of a server's start are imports, the same every time. The fork server makes them once and does
nothing else: no event loop, no thread, no file of the server's. So a forked server behaves as
``keyflock serve`` does from its first own line on: a process and a session of its own that share no state.

    python -P fork_server.py        requests as JSON lines on stdin, process ids as lines on stdout
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from keyflock_client_sim.server_control import dies_with_parent


class ForkServer:
    """The process that servers are forked from, a context manager. All of them end with this process.

    Args:
        log: File for its own output.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process; in the main thread, for the kernel ends it with the thread that started it."""
        program = [sys.executable, "-P", __file__]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, dies_with_parent.__file__, str(os.getpid()), *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the chaos run, which ends in request
            )
        if self._read_answer() != "ready":
            raise RuntimeError(f"The fork server did not start:\n{self._log.read_text()}")
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; the kernel kills what was forked and still runs."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Fork a process that runs ``keyflock`` with these arguments; return its id."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("The fork server is closed.")
        request = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._read_answer())

    def _read_answer(self) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        return self._process.stdout.readline().strip()


def is_alive(pid: int) -> bool:
    """Return whether a forked server runs; the kernel removes ended ones at once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _main() -> None:
    # These are all the imports of ``keyflock serve``, early and late.
    import uvloop  # noqa: F401

    import keyflock_server.bootstrap
    import keyflock_server.runtime.listeners
    import keyflock_server.runtime.server
    import keyflock_server.telemetry.logs  # noqa: F401
    from keyflock_server.cli import main

    with contextlib.suppress(ImportError):
        import asyncpg  # noqa: F401
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            _detach(json.loads(line))
            _run_and_exit(main)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _detach(request: dict[str, Any]) -> None:
    """Give the forked process its own files, session, random numbers, environment and arguments."""
    dies_with_parent.ask_for_death_signal()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    dev_null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, dev_null), (1, log), (2, log)):
        os.dup2(source, target)
    random.seed()
    os.environ.update(request["environment"])
    sys.argv = ["keyflock", *request["arguments"]]


def _run_and_exit(program: Any) -> None:  # noqa: ANN401 - it never returns
    code: object = 1
    try:
        program()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _main()
