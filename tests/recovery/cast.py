"""The servers that are to be killed: one over SQLite, or several over one PostgreSQL."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.recovery.nursery import Nursery, is_alive

from keyflock_server.identity.keys import ADMIN_TOKEN_FILE, OWNER_KEY_FILE, SIGNING_KEY_FILE

#: How long a server may take to be ready; on a busy machine the slowest of hundreds.
READY_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.005
#: Quick enough that rounds of tiny models follow one another, and a lease passes on, within a second.
HASTE: Final = {
    "KEYFLOCK_TICK_S": "0.1",
    "KEYFLOCK_ACK_WAIT_S": "0.5",
    "KEYFLOCK_LOG_FORMAT": "json",
    # All phones are on this machine.
    "KEYFLOCK_MAX_ENROLMENTS_PER_BLOCK_PER_HOUR": "1000000",
    "KEYFLOCK_TOKEN_GRACE_S": "0.3",
}


class NotReady(RuntimeError):
    """A server that was started did not become ready; the message ends with the last lines of its log."""


class Replica:
    """One server's place: its folder and name stay, processes come and go.

    Args:
        name: For people.
        folder: Its data folder.
        nursery: Gives it processes.
        environment: Its settings.
        on_ready: Is told the name and where phones find it, each time that it is ready.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        nursery: Nursery,
        environment: Mapping[str, str],
        on_ready: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "server.log"
        self._announcement = folder / "announcement.json"
        self.admin_url = ""
        #: Names the process in leases and partial aggregates; empty until it is ready.
        self.id = ""
        self.is_ready = asyncio.Event()
        #: From the birth of each process until it was ready.
        self.starts_s: list[float] = []
        self._nursery = nursery
        self._environment = environment
        self._on_ready = on_ready
        self._pid = 0
        self._log_start = 0
        self._waiting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """A new process; ``is_ready`` is set, or ``failure`` is, once that is known."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._announcement.unlink(missing_ok=True)
        self.log.touch()
        self._log_start = self.log.stat().st_size
        serve = ["serve", "--data-dir", str(self.folder), "--host", "127.0.0.1"]
        serve += ["--port", "0", "--admin-port", "0", "--announce", str(self._announcement)]
        self._pid = self._nursery.bear(serve, self._environment, self.log)
        self._waiting = asyncio.create_task(self._wait())

    @property
    def failure(self) -> BaseException | None:
        """Why it has not become ready; None while it may yet, or has."""
        waiting = self._waiting
        return waiting.exception() if waiting and waiting.done() and not waiting.cancelled() else None

    async def kill(self) -> None:
        """As a power cut would: SIGKILL, nothing flushed. Returns when the process is gone."""
        self._signal(signal.SIGKILL)
        await self._gone()

    async def stop(self) -> None:
        """In order; returns when the process is gone."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        await self._gone()

    def hang(self) -> None:
        """It does nothing any more, and nobody is told."""
        os.kill(self._pid, signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on in the middle of what it did, and does not know that time has passed."""
        self._signal(signal.SIGCONT)

    def said(self, event: str) -> int:
        """How often its processes' log has this event."""
        return self.log.read_bytes().count(f'"event": "{event}"'.encode())

    def last_words(self, lines: int = 5) -> str:
        """Of this process's log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return " | ".join(log.read().decode(errors="replace").strip().splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._pid and is_alive(self._pid):
            os.kill(self._pid, number)

    async def _gone(self) -> None:
        self.is_ready.clear()
        self.id = ""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        while self._pid and is_alive(self._pid):  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(_POLL_S)
        self._pid = 0

    async def _wait(self) -> None:
        born_s = time.monotonic()
        while (said := self._announced()) is None:
            if not is_alive(self._pid):
                raise NotReady(f"{self.name} ended at its start. Its last words: {self.last_words()}")
            if time.monotonic() - born_s > READY_WITHIN_S:
                words = self.last_words()
                raise NotReady(f"{self.name} was not ready within {READY_WITHIN_S:g} s; it said: {words}")
            await asyncio.sleep(_POLL_S)
        self.starts_s.append(time.monotonic() - born_s)
        self.admin_url, self.id = said["admin_url"], self._said_id()
        await self._on_ready(self.name, said["sdk_url"])
        self.is_ready.set()

    def _announced(self) -> dict[str, str] | None:
        """Where it is to be found; None while it is not ready."""
        if not self._announcement.exists():
            return None
        said: dict[str, str] = json.loads(self._announcement.read_bytes())
        return said

    def _said_id(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            for line in log:
                if b'"replica"' in line:
                    return str(json.loads(line)["replica"])
        return ""


class Cast:
    """All replicas of one store.

    Args:
        replicas: Them.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)

    @property
    def admin_token(self) -> str:
        """The operator's."""
        return (self.replicas[0].folder / ADMIN_TOKEN_FILE).read_text(encoding="utf-8").strip()

    async def open(self) -> None:
        """Start all: the first makes the secrets, the others get copies."""
        first, *others = self.replicas
        first.start()
        await self.ready([first])
        for other in others:
            other.folder.mkdir(parents=True, exist_ok=True)
            for name in (SIGNING_KEY_FILE, OWNER_KEY_FILE, ADMIN_TOKEN_FILE):
                shutil.copy2(first.folder / name, other.folder / name)
            other.start()
        await self.ready(self.replicas)

    async def ready(self, replicas: Sequence[Replica]) -> None:
        """Return when these are ready.

        Raises:
            NotReady: one of them will not be.
        """
        while not all(one.is_ready.is_set() for one in replicas):
            self.check()
            await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raises NotReady if a start has failed."""
        for one in self.replicas:
            if one.failure is not None:
                raise one.failure

    async def close(self) -> None:
        """End all in order."""
        await asyncio.gather(*(one.stop() for one in self.replicas))
