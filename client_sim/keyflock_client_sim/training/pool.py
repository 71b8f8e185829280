"""A worker pool has one worker process a core, fed from one queue; callers await their jobs.

    async with WorkerPool.of_cores(compilation_cache=folder) as pool:
        digest = pool.publish(model_body)
        trained = await pool.train(TrainJob(model=digest, ...))

Jobs wait in the order they came. A caller that is cancelled gives up its place; a job already under way runs
to its end unused, because a computation cannot be stopped in the middle without losing the worker's compiled
programs.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, cast

from keyflock_client_sim.training.environment import worker_environment
from keyflock_client_sim.training.frames import Done, Raised
from keyflock_client_sim.training.job import Job
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_client_sim.training.process import WorkerDiedError, WorkerProcess

if TYPE_CHECKING:  # a pool is light: only workers load JAX
    from keyflock_client_sim.training.train_job import TrainedDelta, TrainJob

AnswerT = TypeVar("AnswerT")

#: Deaths of one worker in a row, without an answer between, after which it is not started again.
MAX_DEATHS = 3


class JobError(RuntimeError):
    """A job raised in its worker; ``details`` is the traceback there."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.summary)
        self.details = raised.details


class PoolClosedError(RuntimeError):
    """The pool is closed, or was before the job's turn came."""


def available_cores() -> int:
    """Return the number of cores that this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _QueuedJob:
    """A job and the caller who awaits it."""

    def __init__(self, job: Job[object], answer: "asyncio.Future[object]") -> None:
        self.job = job
        self.answer = answer

    def settle(self, outcome: Done | Raised) -> None:
        if self.answer.done():
            return
        match outcome:
            case Done(answer):
                self.answer.set_result(answer)
            case Raised():
                self.answer.set_exception(JobError(outcome))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class WorkerPool:
    """Worker processes, started with ``async with`` and ended when the block is left, however it is left.

    Guarantees:
        No worker outlives the pool, nor the process that holds it, even one killed with SIGKILL.
        Every awaited job ends: in its answer, in JobError, in WorkerDiedError or in PoolClosedError.
    """

    def __init__(self, workers: int, *, threads: int = 1, compilation_cache: Path | None = None) -> None:
        """Prepare a pool; no process is started yet.

        Args:
            workers: Processes; as many as cores that are free for them.
            threads: The threads of each worker. One, where there are as many jobs as cores
                (docs/decisions/0007); all cores, for a pool of one worker with one job after another.
            compilation_cache: The folder that caches compiled programs between runs; None caches none.
        """
        if workers < 1 or threads < 1:
            raise ValueError("a pool needs at least one worker, and a worker one thread")
        self._compilation_cache = compilation_cache
        environment = worker_environment(os.environ, threads=threads, compilation_cache=compilation_cache)
        self._folder = tempfile.TemporaryDirectory(prefix="keyflock-models-", ignore_cleanup_errors=True)
        self._models = ModelFolder(Path(self._folder.name))
        self._queue: asyncio.Queue[_QueuedJob] = asyncio.Queue()
        self._processes = [WorkerProcess(Path(self._folder.name), environment) for _ in range(workers)]
        self._serving: list[asyncio.Task[None]] = []
        self._is_closed = False

    @classmethod
    def of_cores(cls, *, compilation_cache: Path | None = None) -> Self:
        """Return a pool with one worker for each core that this process may use."""
        return cls(available_cores(), compilation_cache=compilation_cache)

    @classmethod
    def single_worker(cls, *, compilation_cache: Path | None = None) -> Self:
        """Return a pool with a single worker that has all cores: for work that cannot be divided."""
        return cls(1, threads=available_cores(), compilation_cache=compilation_cache)

    @property
    def compilation_cache(self) -> Path | None:
        """Return the folder that caches compiled programs between runs."""
        return self._compilation_cache

    @property
    def workers(self) -> int:
        """Return how many jobs run at a time."""
        return len(self._processes)

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(process.start() for process in self._processes))
        self._serving = [asyncio.create_task(self._serve(process)) for process in self._processes]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def publish(self, body: bytes) -> ModelDigest:
        """Publish a model's bytes to all workers, as ``keyflock_compression.encode_weights`` made them."""
        return self._models.publish(body)

    async def train(self, job: "TrainJob") -> "TrainedDelta":
        """Run the local training of one simulated phone; see ``TrainJob``."""
        return await self.run(job)

    async def run(self, job: Job[AnswerT]) -> AnswerT:
        """Run a job and return its result.

        Raises:
            JobError: The job raised; its traceback is in ``details``.
            WorkerDiedError: The worker ended under the job; another takes its place for the next job.
            PoolClosedError: The pool is closed or has no worker left.
        """
        if self._is_closed or not any(not task.done() for task in self._serving):
            raise PoolClosedError("the worker pool is closed")
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_QueuedJob(job, answer))
        return cast("AnswerT", await answer)

    async def close(self) -> None:
        """End all workers now and fail the queued jobs; a second call is no work."""
        self._is_closed = True
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.gather(*(process.end() for process in self._processes))
        self._fail_queued_jobs()
        self._folder.cleanup()

    async def _serve(self, process: WorkerProcess) -> None:
        deaths = 0
        while deaths < MAX_DEATHS:
            waiting = await self._queue.get()
            if waiting.answer.done():
                continue
            try:
                waiting.settle(await process.run(waiting.job))
                deaths = 0
            except WorkerDiedError as error:
                deaths += 1
                waiting.fail(error)
                await process.start()
            except asyncio.CancelledError:
                waiting.fail(PoolClosedError("the worker pool was closed under the job"))
                raise
        await process.end()
        if all(task.done() or task is asyncio.current_task() for task in self._serving):
            self._fail_queued_jobs()

    def _fail_queued_jobs(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait().fail(PoolClosedError("the worker pool has no worker left"))
