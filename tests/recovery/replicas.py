"""The servers that are killed: one over SQLite, or several over one PostgreSQL."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tests.recovery.fork_server import ForkServer, is_alive

from keyflock_server.identity.keys import ADMIN_TOKEN_FILE, OWNER_KEY_FILE, SIGNING_KEY_FILE
from keyflock_server.telemetry.series.process import TICK_DURATION

#: How long a server may take to be ready; the slowest of hundreds on a busy machine needs this.
READY_WITHIN_S: Final = 120.0
_POLL_S: Final = 0.005
#: Settings with which rounds of tiny models follow one another, and a lease passes on, within a second.
FAST_SETTINGS: Final = {
    "KEYFLOCK_TICK_S": "0.1",
    "KEYFLOCK_ACK_WAIT_S": "0.5",
    "KEYFLOCK_LOG_FORMAT": "json",
    # All phones are on this machine.
    "KEYFLOCK_MAX_ENROLMENTS_PER_BLOCK_PER_HOUR": "1000000",
    "KEYFLOCK_TOKEN_GRACE_S": "0.3",
}


class ServerNotReady(RuntimeError):
    """A started server did not become ready; the message ends with the last lines of its log."""


class ServerReplica:
    """One server whose folder and name stay while its processes come and go.

    Args:
        name: Its name in messages.
        folder: Its data folder.
        fork_server: Starts its processes.
        environment: Its settings, as environment variables.
        on_ready: Called with its name and its address for phones, each time that it is ready.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        fork_server: ForkServer,
        environment: Mapping[str, str],
        on_ready: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "server.log"
        self._announcement = folder / "announcement.json"
        self.admin_url = ""
        #: The process's id in leases and partial aggregates; empty until it is ready.
        self.id = ""
        self.is_ready = asyncio.Event()
        #: Seconds from the start of each process until it was ready.
        self.starts_s: list[float] = []
        self._fork_server = fork_server
        self._environment = environment
        self._on_ready = on_ready
        self._pid = 0
        self._log_start = 0
        self._readiness_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start a new process; ``is_ready`` is set, or ``failure`` is, once that is known."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._announcement.unlink(missing_ok=True)
        self.log.touch()
        self._log_start = self.log.stat().st_size
        serve = ["serve", "--data-dir", str(self.folder), "--host", "127.0.0.1"]
        serve += ["--port", "0", "--admin-port", "0", "--announce", str(self._announcement)]
        self._pid = self._fork_server.spawn(serve, self._environment, self.log)
        self._readiness_task = asyncio.create_task(self._wait_until_ready())

    @property
    def failure(self) -> BaseException | None:
        """Why the process did not become ready; None when it is ready or may still become it."""
        waiting = self._readiness_task
        return waiting.exception() if waiting and waiting.done() and not waiting.cancelled() else None

    async def kill(self) -> None:
        """Send SIGKILL, as a power cut would end the process; return when it is gone."""
        self._signal(signal.SIGKILL)
        await self._wait_until_gone()

    async def stop(self) -> None:
        """Send SIGTERM; return when the process is gone."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        await self._wait_until_gone()

    def suspend(self) -> None:
        """Send SIGSTOP: the process hangs, and its connections stay open."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT: the process continues as if no time had passed."""
        self._signal(signal.SIGCONT)

    def log_event_count(self, event: str) -> int:
        """Return how often the log of its processes has this event."""
        return self.log.read_bytes().count(f'"event": "{event}"'.encode())

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of this process's log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return " | ".join(log.read().decode(errors="replace").strip().splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._pid and is_alive(self._pid):
            os.kill(self._pid, number)

    async def _wait_until_gone(self) -> None:
        self.is_ready.clear()
        self.id = ""
        if self._readiness_task is not None:
            self._readiness_task.cancel()
            await asyncio.gather(self._readiness_task, return_exceptions=True)
        while self._pid and is_alive(self._pid):  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(_POLL_S)
        self._pid = 0

    async def _wait_until_ready(self) -> None:
        started_s = time.monotonic()
        while (announcement := self._read_announcement()) is None:
            if not is_alive(self._pid):
                raise ServerNotReady(f"{self.name} ended at its start. Its log ends: {self.log_tail()}")
            if time.monotonic() - started_s > READY_WITHIN_S:
                log_tail = self.log_tail()
                raise ServerNotReady(
                    f"{self.name} was not ready within {READY_WITHIN_S:g} s; its log ends: {log_tail}"
                )
            await asyncio.sleep(_POLL_S)
        self.starts_s.append(time.monotonic() - started_s)
        self.admin_url, self.id = announcement["admin_url"], self._logged_id()
        await self._on_ready(self.name, announcement["sdk_url"])
        self.is_ready.set()

    def _read_announcement(self) -> dict[str, str] | None:
        """Return its addresses; None while it is not ready."""
        if not self._announcement.exists():
            return None
        announcement: dict[str, str] = json.loads(self._announcement.read_bytes())
        return announcement

    def _logged_id(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            for line in log:
                if b'"replica"' in line:
                    return str(json.loads(line)["replica"])
        return ""


class ReplicaSet:
    """All replicas of one store.

    Args:
        replicas: The servers; the first makes the secrets.
    """

    def __init__(self, replicas: Sequence[ServerReplica]) -> None:
        self.replicas = tuple(replicas)

    @property
    def admin_token(self) -> str:
        """The token for the operators' port."""
        return (self.replicas[0].folder / ADMIN_TOKEN_FILE).read_text(encoding="utf-8").strip()

    async def start(self) -> None:
        """Start all replicas: the first makes the secrets, the others get copies."""
        first, *others = self.replicas
        first.start()
        await self.wait_until_ready([first])
        for other in others:
            other.folder.mkdir(parents=True, exist_ok=True)
            for name in (SIGNING_KEY_FILE, OWNER_KEY_FILE, ADMIN_TOKEN_FILE):
                shutil.copy2(first.folder / name, other.folder / name)
            other.start()
        await self.wait_until_ready(self.replicas)

    async def wait_until_ready(self, replicas: Sequence[ServerReplica]) -> None:
        """Return when these replicas are ready.

        Raises:
            ServerNotReady: one of them did not become ready.
        """
        while not all(one.is_ready.is_set() for one in replicas):
            self.raise_start_failure()
            await asyncio.sleep(_POLL_S)

    async def wait_until_read(self) -> None:
        """Return when every replica knows what was written before: each has begun and ended a pass since.

        A phone that asks a replica which does not know of its population's first task is sent away for hours.
        """
        async with aiohttp.ClientSession() as session:
            before = [await _passes(session, one) for one in self.replicas]
            for one, passes in zip(self.replicas, before, strict=True):
                # The first one may have begun before. Nothing sets an event: it is another process.
                while await _passes(session, one) < passes + 2:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)

    def raise_start_failure(self) -> None:
        """Raise the failure of a start, if there is one."""
        for one in self.replicas:
            if one.failure is not None:
                raise one.failure

    async def stop(self) -> None:
        """Stop all replicas with SIGTERM."""
        await asyncio.gather(*(one.stop() for one in self.replicas))


async def _passes(session: aiohttp.ClientSession, replica: ServerReplica) -> float:
    """Return how many passes a replica's process has ended."""
    async with session.get(f"{replica.admin_url}/metrics") as response:
        exposition = await response.text()
    (passes,) = (
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == f"{TICK_DURATION.name}_count"
    )
    return float(passes)
