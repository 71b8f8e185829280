"""This program becomes another one that cannot outlive the process which started it.

``python -m keyflock_client_sim.server_control.dies_with_parent PARENT_PID PROGRAM ARGUMENT...`` asks the
kernel for a SIGTERM on the parent's death and then executes PROGRAM in its own place; the request survives
the ``exec``. This covers what no ``finally`` and no ``atexit`` can: a parent killed with SIGKILL. It is a
program of its own rather than ``preexec_fn``, because running Python between fork and exec deadlocks in a
process with threads, and JAX has threads.

Edge cases:
    no prctl (macOS, Windows) -> PROGRAM runs all the same; an orderly end of the parent still ends it
    the parent died before the request was made -> PROGRAM is never started, exit code 0
Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def ask_for_death_signal() -> bool:
    """Ask for a SIGTERM when the parent thread ends; return False where the kernel cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def main(arguments: Sequence[str]) -> None:
    """Execute ``arguments[1:]`` bound to the life of process ``arguments[0]``; return if that has ended."""
    parent, program = int(arguments[0]), list(arguments[1:])
    if ask_for_death_signal() and os.getppid() != parent:
        return
    os.execv(program[0], program)  # noqa: S606 - the caller names the program; no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
