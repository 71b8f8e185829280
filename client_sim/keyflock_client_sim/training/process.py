"""The pool starts a worker process, gives it one job at a time, and ends it."""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keyflock_client_sim.training.frames import Done, Raised, receive, to_frame
from keyflock_client_sim.training.job import Job

WORKER_MODULE: Final = "keyflock_client_sim.training.worker"
#: A worker that does not see the end of its input within this time is killed.
END_WITHIN_S: Final = 5.0
#: The last lines of a worker's standard error explain its death.
MAX_STDERR_LINES: Final = 20


class WorkerDiedError(RuntimeError):
    """A worker's process ended under a job; the message contains how, and its last output."""


class WorkerProcess:
    """A worker's process and its pipes."""

    def __init__(self, model_folder: Path, environment: Mapping[str, str]) -> None:
        self._model_folder = model_folder
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=MAX_STDERR_LINES)

    @property
    def pid(self) -> int | None:
        """Return the process id; None when there is no process."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process, after the end of an earlier one."""
        await self.end()
        self._last_lines.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            WORKER_MODULE,
            str(self._model_folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            # Ctrl-C goes to the whole foreground group; a worker ends when its parent says so, not before.
            start_new_session=True,
        )
        self._draining = asyncio.create_task(self._drain(self._process))

    async def run(self, job: Job[object]) -> Done | Raised:
        """Run the job and return its outcome.

        Raises:
            WorkerDiedError: The process ended first.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise WorkerDiedError("the worker is not running")
        try:
            process.stdin.write(to_frame(job))
            await process.stdin.drain()
            outcome = await receive(process.stdout)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerDiedError(await self._describe_death(process)) from error
        if not isinstance(outcome, Done | Raised):
            raise WorkerDiedError("the worker answered something that is no answer")
        return outcome

    async def end(self) -> None:
        """End the process and wait until it is gone; without a process there is nothing to do."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_WITHIN_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._draining is not None:
            await self._draining

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        # An unread pipe fills and stops the worker in the middle of a warning.
        if process.stderr is not None:
            async for line in process.stderr:
                self._last_lines.append(line.decode(errors="replace").rstrip())

    async def _describe_death(self, process: asyncio.subprocess.Process) -> str:
        status = await process.wait()
        if self._draining is not None:
            await self._draining
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        last = f"; its last words: {self._last_lines[-1]}" if self._last_lines else ""
        return f"a training worker (process {process.pid}) ended with {cause}{last}"
