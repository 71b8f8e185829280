"""Workers answer every job one way or another, and none of them outlives the pool."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from keyflock_client_sim.training.pool import JobError, PoolClosedError, WorkerPool
from keyflock_client_sim.training.process import WorkerDiedError


def pids_of(pool: WorkerPool) -> tuple[int, ...]:
    return tuple(process.pid for process in pool._processes if process.pid is not None)


async def test_a_job_runs_in_another_process_with_one_thread_and_the_given_cache(
    sample_jobs: ModuleType, tmp_path: Path
) -> None:
    async with WorkerPool(1, compilation_cache=tmp_path) as pool:
        pid, environment = await pool.run(sample_jobs.Environment())

        assert (pid,) == pids_of(pool)
    assert environment["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    assert environment["OMP_NUM_THREADS"] == environment["NPROC"] == "1"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)


async def test_what_a_job_prints_does_not_land_between_answers(sample_jobs: ModuleType) -> None:
    async with WorkerPool(1) as pool:
        read = await pool.run(sample_jobs.Chatter())

    assert read == ""


async def test_a_published_model_is_on_every_workers_shelf_and_the_folder_goes_with_the_pool(
    sample_jobs: ModuleType,
) -> None:
    async with WorkerPool(1) as pool:
        digest = pool.publish(b"a model")
        again = pool.publish(b"a model")

        assert await pool.run(sample_jobs.HasModel(digest))
        assert not await pool.run(sample_jobs.HasModel("0" * 64))
    assert digest == again == "97ff8a35544dcf40ad84047074439dd6aa3a0be469ea578a1b1c017d939ec61c"


async def test_a_job_that_raises_is_an_error_with_the_workers_traceback_and_the_worker_goes_on(
    sample_jobs: ModuleType,
) -> None:
    async with WorkerPool(1) as pool:
        before = pids_of(pool)
        with pytest.raises(JobError, match=r"^ValueError: no such word$") as failed:
            await pool.run(sample_jobs.Fail())

        assert "sample_jobs.py" in failed.value.details
        assert await pool.run(sample_jobs.Sleep(0.0)) == 0.0
        assert pids_of(pool) == before


async def test_a_killed_worker_fails_its_job_clearly_and_is_replaced(sample_jobs: ModuleType) -> None:
    async with WorkerPool(1) as pool:
        (before,) = pids_of(pool)
        with pytest.raises(WorkerDiedError, match=r"ended with signal 9; its last words: memory is short"):
            await pool.run(sample_jobs.Die())

        assert await pool.run(sample_jobs.Sleep(0.0)) == 0.0
        assert pids_of(pool) != (before,)


async def test_a_worker_that_always_dies_is_given_up_and_nobody_waits_for_ever(
    sample_jobs: ModuleType,
) -> None:
    async with WorkerPool(1) as pool:
        outcomes = await asyncio.gather(
            *(pool.run(sample_jobs.Die()) for _ in range(4)), return_exceptions=True
        )

        assert [type(outcome) for outcome in outcomes] == [WorkerDiedError] * 3 + [PoolClosedError]
        with pytest.raises(PoolClosedError):
            await pool.run(sample_jobs.Sleep(0.0))
        assert pids_of(pool) == ()


async def test_a_cancelled_caller_gives_up_its_place_and_the_next_one_is_served(
    sample_jobs: ModuleType,
) -> None:
    async with WorkerPool(1) as pool:
        under_way = asyncio.create_task(pool.run(sample_jobs.Sleep(0.2)))
        queued = asyncio.create_task(pool.run(sample_jobs.Sleep(600.0)))
        await asyncio.sleep(0)
        under_way.cancel()
        queued.cancel()

        assert await pool.run(sample_jobs.Sleep(0.0)) == 0.0


async def test_leaving_the_pool_ends_workers_in_mid_job_and_refuses_what_waits(
    sample_jobs: ModuleType,
) -> None:
    async with WorkerPool(1) as pool:
        pids = pids_of(pool)
        jobs = [asyncio.create_task(pool.run(sample_jobs.Sleep(600.0))) for _ in range(2)]
        await asyncio.sleep(0)

    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [PoolClosedError] * 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_worker_dies_with_a_parent_that_is_killed(sample_jobs: ModuleType) -> None:
    del sample_jobs
    program = (
        "import asyncio, sample_jobs\n"
        "from keyflock_client_sim.training.pool import WorkerPool\n"
        "async def hold():\n"
        "    async with WorkerPool(1) as pool:\n"
        "        job = asyncio.create_task(pool.run(sample_jobs.Sleep(600.0)))\n"
        "        await asyncio.sleep(0)\n"
        "        print(*(process.pid for process in pool._processes), flush=True)\n"
        "        await job\n"
        "asyncio.run(hold())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))

        parent.kill()
        parent.wait()

    worker.wait(timeout=120)
