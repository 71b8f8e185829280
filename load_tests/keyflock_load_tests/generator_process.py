"""A generator in a process of its own, on a core of its own; see ``traffic`` for what it is given.

The process is idle between runs, so a plan can be prepared and sent while the server rests. It ends with the
block, and with its parent: then its pipe is closed.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from keyflock_load_tests.generator import Generator
from keyflock_load_tests.traffic import TrafficPlan, TrafficRecord

_PACKAGES: Final = Path(__file__).resolve().parents[1]


class GeneratorFailed(RuntimeError):
    """The generator's process ended, or its script raised."""


class GeneratorProcess:
    """A process that runs one plan after the other.

    Args:
        core: The core that it keeps to; None: any.
        may_spin: Whether it may burn that core to be on time.
    """

    def __init__(self, core: int | None = None, *, may_spin: bool = True) -> None:
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        # Packages that only the parent has on its path, such as benchmarks, may hold scripts.
        path = os.pathsep.join([str(_PACKAGES), *(one for one in sys.path if one)])
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own package
            [
                sys.executable,
                "-m",
                "keyflock_load_tests.generator_process",
                str(number),
                "" if core is None else str(core),
                "spin" if may_spin else "",
            ],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self._pipe: Connection[Any, Any] = Connection(ours.detach())

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._process.kill()
        self._process.wait()

    def prepare(self, plan: TrafficPlan) -> None:
        """Send the plan; return once the process has it whole."""
        self._pipe.send(plan)
        self._expect("ready")

    def start(self) -> None:
        """Start the plan that was prepared."""
        self._pipe.send("go")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether the run has ended; wait for it at most so long."""
        return self._pipe.poll(timeout_s)

    def record(self) -> TrafficRecord:
        """Return the record of the run, which is waited for."""
        self._expect("done")
        record: TrafficRecord = self._receive()
        return record

    def run(
        self, plan: TrafficPlan, while_running: AbstractContextManager[object] | None = None
    ) -> TrafficRecord:
        """Run a plan and return its record.

        Args:
            plan: What to send.
            while_running: Entered when all is prepared, left when the last answer is there: a meter.
        """
        self.prepare(plan)
        with while_running or nullcontext():
            self.start()
            self._expect("done")
        record: TrafficRecord = self._receive()
        return record

    def _expect(self, word: str) -> None:
        answer = self._receive()
        if answer != word:
            raise GeneratorFailed(str(answer))

    def _receive(self) -> Any:  # noqa: ANN401 - a word or a record
        try:
            return self._pipe.recv()
        except EOFError:
            raise GeneratorFailed("the generator's process has ended") from None


def serve(pipe: "Connection[Any, Any]", *, may_spin: bool) -> None:
    """Run the plans that come through the pipe until it is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            try:
                generator = Generator(pipe.recv(), may_spin=may_spin)
                pipe.send("ready")
                pipe.recv()
                record = generator.run()
                pipe.send("done")
                pipe.send(record)
            except EOFError:
                raise
            except Exception as error:  # noqa: BLE001 - a script may raise anything: the parent raises it
                pipe.send(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _pipe_of(number: int) -> Iterator["Connection[Any, Any]"]:
    with Connection(number) as pipe:
        yield pipe


if __name__ == "__main__":
    descriptor, chosen_core, spinning = sys.argv[1:4]
    if chosen_core:
        os.sched_setaffinity(0, {int(chosen_core)})
    with _pipe_of(int(descriptor)) as ours:
        serve(ours, may_spin=bool(spinning))
