"""Which core runs what: the server has one to itself, and the generator another one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MIB: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of a run."""

    generator: int
    server: int

    @property
    def is_shared(self) -> bool:
        """Return whether there is one core for both: then the generator takes time from the server."""
        return self.generator == self.server

    @classmethod
    def chosen(cls) -> "Cores":
        """Choose among the cores that this process may run on: the last for the server, the one before it."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(generator=usable[-2] if len(usable) > 1 else usable[-1], server=usable[-1])

    def describe(self) -> str:
        """Return a sentence about them."""
        if self.is_shared:
            return "One core for server and generator: rates are those of both together."
        return f"Server on core {self.server}, generator on core {self.generator}."


def pin_this_process(core: int) -> None:
    """Keep this process on a core: all threads that it has, and so those that they start."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def starting_on(core: int | None) -> Iterator[None]:
    """Keep the processes that this thread starts in the block to a core; None: to any.

    They know from the beginning that they have no more: a server has as many threads for reports as cores.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far, of all its threads and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024 / _MIB
