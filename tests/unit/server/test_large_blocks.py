"""What is large goes back to the system, whatever small things were made meanwhile."""

import ctypes
import subprocess
import sys

import pytest

#: Vectors of 6 MB between small things that stay; then the vectors go. Prints the MB that are left.
PROGRAM = """
import os
import numpy as np
from keyflock_server.large_blocks import map_large_blocks

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

assert {begins}
np.ones(1_500_000, np.float32)
small, before = [], resident_mb()
for _ in range(10):
    vectors = []
    for _ in range(5):
        vectors.append(np.ones(1_500_000, np.float32))
        small.append(bytes(2_000))
del vectors
print(resident_mb() - before)
"""


def kept_mb(begins: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(begins=begins)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc is told",
)
def test_vectors_that_are_dropped_leave_the_process() -> None:
    assert kept_mb("map_large_blocks()") < 3.0
    assert kept_mb("True") > 10.0  # without: this is the trouble that it is for
