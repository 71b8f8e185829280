"""Which core a process runs on, and what it has used of it."""

import os
import subprocess
import sys

from keyflock_load_tests.cores import cpu_s, starting_on

_PRINT_CORES = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]


def test_a_process_has_its_core_from_the_beginning_and_the_starter_keeps_its_own() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)

    with starting_on(core):
        started = subprocess.run(_PRINT_CORES, check=True, capture_output=True, text=True)

    assert started.stdout.split() == [str(core)]
    assert os.sched_getaffinity(0) == before


def test_the_time_of_children_that_have_ended_is_not_lost() -> None:
    before_s = cpu_s(os.getpid())

    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)

    assert cpu_s(os.getpid()) - before_s > 0.15
