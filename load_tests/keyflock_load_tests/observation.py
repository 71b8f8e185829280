"""This module watches a server over time: from outside by its process id, and by its own metrics.

A server that is killed and comes back is another process whose counters begin at zero; what it counted before
is kept.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp
import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from keyflock_client_sim.server_control.server_process import ServerProcess

MIB: Final = 1_048_576
#: How often the operating system is asked, and how often the server: its own answer costs it milliseconds.
USAGE_EVERY_S: Final = 0.5
METRICS_EVERY_S: Final = 2.0
_LAG: Final = "keyflock_event_loop_lag_seconds"

Readings = Mapping[str, float]


class Clock(Protocol):
    """Seconds since the start of the run."""

    def __call__(self) -> float:
        """Return the current time."""
        ...


class ServerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A server's memory, processor, open files and event loop at one instant."""

    at_s: float
    rss_mib: float
    #: The processor time as a share of one core, since the sample before.
    cpu_ratio: float
    open_files: int = 0
    #: The newest that the server has said of its event loop: its tasks, and its mean lag since it was last
    #: asked; None before it was.
    tasks: int | None = None
    loop_lag_ms: float | None = None


@dataclass(slots=True)
class ServerWatch:
    """Watches one server.

    Args:
        process: Returns the present process.
    """

    process: Callable[[], ServerProcess]
    usage: list[ServerUsage] = field(default_factory=list)
    #: What the counters have grown by since the first reading, by ``sample_key``.
    growth: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: The processor time that the server's processes have used since the first sample, in seconds.
    cpu_s: float = 0.0
    _last: Readings = field(default_factory=dict)
    _tasks: int | None = None
    _loop_lag_ms: float | None = None
    _read_once: bool = False

    async def run(self, clock: Clock) -> None:
        """Watch until cancelled; ``clock`` returns the seconds since the start of the run."""
        await asyncio.gather(self._watch_usage(clock), self._watch_metrics())

    @property
    def peak_rss_mib(self) -> float:
        """Return the largest memory that was seen."""
        return max((sample.rss_mib for sample in self.usage), default=0.0)

    async def read_metrics(self) -> None:
        """Ask the server for its metrics once; one that does not answer is asked again later."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0)) as session,
                session.get(self.process().admin_url + "/metrics") as answer,
            ):
                self.take(readings(await answer.text()))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return

    def take(self, now: Readings) -> None:
        """Add a reading of the metrics."""
        before = self._last
        if self._read_once:
            # A counter that went back belongs to a new process, which began at zero.
            grown = {
                key: value - (before.get(key, 0.0) if value >= before.get(key, 0.0) else 0.0)
                for key, value in now.items()
            }
            for key, value in grown.items():
                self.growth[key] += value
            beats = grown.get(f"{_LAG}_count", 0.0)
            if beats:
                self._loop_lag_ms = 1e3 * grown.get(f"{_LAG}_sum", 0.0) / beats
        self._read_once = True
        self._last = now
        tasks = now.get("keyflock_event_loop_tasks")
        self._tasks = None if tasks is None else int(tasks)

    async def _watch_metrics(self) -> None:
        while True:
            await self.read_metrics()
            await asyncio.sleep(METRICS_EVERY_S)

    async def _watch_usage(self, clock: Clock) -> None:
        watched: psutil.Process | None = None
        spent_s = 0.0
        while True:
            try:
                pid = self.process().pid
                if watched is None or watched.pid != pid:
                    watched = psutil.Process(pid)
                    watched.cpu_percent()
                    spent_s = _cpu_s(watched)
                else:
                    with watched.oneshot():
                        now_s = _cpu_s(watched)
                        self.cpu_s += now_s - spent_s
                        spent_s = now_s
                        self.usage.append(
                            ServerUsage(
                                at_s=clock(),
                                rss_mib=watched.memory_info().rss / MIB,
                                cpu_ratio=watched.cpu_percent() / 100.0,
                                open_files=watched.num_fds(),
                                tasks=self._tasks,
                                loop_lag_ms=self._loop_lag_ms,
                            )
                        )
            except psutil.Error:
                watched = None  # it was killed; another one comes
            await asyncio.sleep(USAGE_EVERY_S)


def readings(exposition: str) -> dict[str, float]:
    """Return the samples of Prometheus' text by name and labels."""
    return {
        sample_key(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def sample_key(name: str, labels: Mapping[str, str]) -> str:
    """Return the key of one time series."""
    return name + "".join(f"|{label}={value}" for label, value in sorted(labels.items()))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
