"""Servers that start in a blink: one process imports the program, and each server is forked from it.

Nine tenths of a server's start are imports, the same every time. The nursery makes them once and does nothing
else: no event loop, no thread, no file of the server's. So a forked server is what ``keyflock serve`` is from
its first own line on: a process of its own, in a session of its own, that shares no state with the others.

    python -P nursery.py        orders as JSON lines on stdin, process ids as lines on stdout
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

from keyflock_client_sim.demo import dies_with_parent


class Nursery:
    """The process that servers are forked from; use it as ``with``. It and all of them die with this one.

    Args:
        log: File for what it says itself.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Import the program. In the main thread: the kernel ends the nursery with the thread it is from."""
        program = [sys.executable, "-P", __file__]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, dies_with_parent.__file__, str(os.getpid()), *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the harness, which ends the killing in order
            )
        if self._answer() != "ready":
            raise RuntimeError(f"The nursery did not start:\n{self._log.read_text()}")
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what was forked and still lives is killed by the kernel."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def bear(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """A new process that runs ``keyflock`` with these arguments; its id."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("The nursery is closed.")
        order = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        return self._process.stdout.readline().strip()


def is_alive(pid: int) -> bool:
    """Whether a forked server is there; the kernel clears the dead away at once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _main() -> None:
    # Whatever ``keyflock serve`` imports, here and late.
    import uvloop  # noqa: F401

    import keyflock_server.bootstrap
    import keyflock_server.http.listeners
    import keyflock_server.http.server
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
            _become(json.loads(line))
            _end_with(main)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become(order: dict[str, Any]) -> None:
    """Nothing of the nursery's but its memory: other files, another session, other random numbers."""
    dies_with_parent.ask_for_death_signal()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    random.seed()
    os.environ.update(order["environment"])
    sys.argv = ["keyflock", *order["arguments"]]


def _end_with(program: Any) -> None:  # noqa: ANN401 - it never returns
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
