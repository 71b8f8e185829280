"""A worker process reads jobs from its standard input, runs them one by one, and writes answers.

``python -m keyflock_client_sim.training.worker MODEL_FOLDER``. A thread of its own waits on the input, so
that the end of the parent, however it comes, ends the worker at once and in the middle of a job.
"""

import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Final, cast

from keyflock_client_sim.training.frames import Done, Raised, read_body, to_frame, value_of
from keyflock_client_sim.training.job import Job
from keyflock_client_sim.training.model_folder import ModelFolder

#: Workers yield to a server on the same machine: real phones take none of its cores.
NICENESS: Final = 5


def main() -> None:
    """Serve jobs until the parent is gone."""
    jobs_pipe, answers_pipe = _take_standard_streams()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    models = ModelFolder(Path(sys.argv[1]))
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs_pipe, jobs), daemon=True).start()
    while True:
        answers_pipe.write(to_frame(_outcome(jobs.get(), models)))
        answers_pipe.flush()


def _take_standard_streams() -> tuple[IO[bytes], IO[bytes]]:
    # Whatever a library prints must not land between two answers, so descriptor 1 becomes standard error.
    jobs_pipe = os.fdopen(os.dup(0), "rb")
    answers_pipe = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs_pipe, answers_pipe


def _receive(pipe: IO[bytes], jobs: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            jobs.put(read_body(pipe))
    except EOFError:
        os._exit(0)


def _outcome(body: bytes, models: ModelFolder) -> Done | Raised:
    try:
        return Done(cast("Job[object]", value_of(body)).run(models))
    except Exception as error:  # noqa: BLE001 - whatever a job raises is its answer; the worker goes on
        return Raised(f"{type(error).__name__}: {error}", traceback.format_exc())


if __name__ == "__main__":
    main()
