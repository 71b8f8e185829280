"""How the server fares meanwhile: memory and processor over time, read from outside by its process id."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

import psutil

MIB = 1_048_576


class Clock(Protocol):
    """Seconds since the start of the run."""

    def __call__(self) -> float:
        """Now."""
        ...


@dataclass(frozen=True, slots=True)
class Vitals:
    """The server at one instant."""

    at_s: float
    rss_mib: float
    #: Of one core, since the sample before.
    cpu_ratio: float


async def watch(pid: int, clock: Clock, into: list[Vitals], *, every_s: float = 0.5) -> None:
    """Appends a sample every ``every_s`` until it is cancelled or the process has gone."""
    try:
        process = psutil.Process(pid)
        process.cpu_percent()
        while True:
            await asyncio.sleep(every_s)
            with process.oneshot():
                into.append(Vitals(clock(), process.memory_info().rss / MIB, process.cpu_percent() / 100.0))
    except psutil.NoSuchProcess:
        return
