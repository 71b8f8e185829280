"""The event loop ends its process in bounded time, whatever its tasks wait for."""

import subprocess
import sys
from typing import Final

import pytest

#: A task that goes on waiting however often it is cancelled, and a thread that nobody can stop.
_PROGRAM: Final = """
import asyncio, threading, sys
from keyflock_server.runtime.event_loop import run_in_bounded_time

async def deaf():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def main():
    if {leaves_a_thread}:
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    if {leaves_a_task}:
        main.task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
    if {fails}:
        raise ValueError("planted failure")

run_in_bounded_time(main(), grace_s=0.2)
print("returned")
"""


@pytest.mark.parametrize("leaves_a_thread", [True, False])
@pytest.mark.parametrize("leaves_a_task", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_process_ends_whatever_its_tasks_and_threads_wait_for(
    *, leaves_a_thread: bool, leaves_a_task: bool, fails: bool
) -> None:
    program = _PROGRAM.format(leaves_a_thread=leaves_a_thread, leaves_a_task=leaves_a_task, fails=fails)

    # Far more than it takes: a process that hangs would do so for an hour.
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120
    )

    assert run.returncode == (1 if fails else 0)
    assert "was destroyed" not in run.stderr
    assert ("tasks did not end in time" in run.stdout + run.stderr) is leaves_a_task
