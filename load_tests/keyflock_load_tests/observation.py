"""This module samples the server's memory and processor over time, from outside by its process id."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

import psutil

MIB = 1_048_576


class Clock(Protocol):
    """Seconds since the start of the run."""

    def __call__(self) -> float:
        """Return the current time."""
        ...


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """The server's memory and processor at one instant."""

    at_s: float
    rss_mib: float
    #: The processor time as a share of one core, since the sample before.
    cpu_ratio: float


async def sample_usage(pid: int, clock: Clock, into: list[ServerUsage], *, every_s: float = 0.5) -> None:
    """Append a sample every ``every_s`` until cancellation or the end of the process."""
    try:
        process = psutil.Process(pid)
        process.cpu_percent()
        while True:
            await asyncio.sleep(every_s)
            with process.oneshot():
                into.append(
                    ServerUsage(clock(), process.memory_info().rss / MIB, process.cpu_percent() / 100.0)
                )
    except psutil.NoSuchProcess:
        return
