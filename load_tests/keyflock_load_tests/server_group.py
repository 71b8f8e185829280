"""The servers of a run: one over SQLite, or replicas over one PostgreSQL; they can be killed and come back.

A server that comes back has its old address and folder, as after a power cut. All end with the block.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from keyflock_client_sim.server_control.server_process import ServerProcess, start_server
from keyflock_load_tests.cores import starting_on
from keyflock_load_tests.postgres_server import PostgresServer, installed_binaries
from keyflock_load_tests.scenario import ServerPlan

#: What replicas must have in common, from the first one's folder.
_SHARED_SECRETS: Final = ("signing_key", "owner_key", "admin_token")


@dataclass(frozen=True, slots=True)
class _Site:
    """Where one server lives, whichever process it is."""

    folder: Path
    options: tuple[str, ...]


class ServerGroup:
    """Running servers; use ``running_servers``.

    Args:
        plan: How many, with which settings.
        folder: Holds a folder for each server.
        database_url: PostgreSQL's; None: each server has SQLite in its folder, and there is one.
        starter: One thread that starts all processes, for the kernel ends each with its thread.
        core: The core that all servers keep to; None: any.
    """

    def __init__(
        self,
        plan: ServerPlan,
        folder: Path,
        database_url: str | None,
        starter: ThreadPoolExecutor,
        core: int | None,
    ) -> None:
        self._plan = plan
        self._core = core
        #: Whether the database is in the server's folder, and the server its only user.
        self.is_embedded = database_url is None
        self._starter = starter
        self._folder = folder
        #: The database of all of them, as SQLAlchemy's asynchronous engines take it.
        self.database_url = database_url or f"sqlite+aiosqlite:///{folder / 'server-0' / 'keyflock.sqlite3'}"
        shared: list[str] = []
        if plan.has_suggestions:
            shared += ["--suggestions", "--head-keys", str(_head_keys(folder))]
        if database_url is not None:
            shared += ["--database", database_url, "--blobs", f"file://{folder / 'blobs'}"]
        self._options = tuple(shared)
        self._sites: list[_Site] = []
        self.processes: list[ServerProcess] = []

    def start(self) -> None:
        """Start all servers; the first makes the secrets, the others get copies."""
        for number in range(self._plan.replicas):
            folder = self._folder / f"server-{number}"
            if number:
                folder.mkdir(parents=True)
                for name in _SHARED_SECRETS:
                    shutil.copy2(self._sites[0].folder / name, folder / name)
            process = self._started(_Site(folder, self._options))
            # From now on it has this address.
            ports = [urlsplit(url).port for url in (process.sdk_url, process.admin_url)]
            fixed = ("--port", str(ports[0]), "--admin-port", str(ports[1]))
            self._sites.append(_Site(folder, (*self._options, *fixed)))
            self.processes.append(process)
        self._turns = cycle([process.sdk_url for process in self.processes])

    @property
    def admin_url(self) -> str:
        """Return the operators' address of the first server."""
        return self.processes[0].admin_url

    @property
    def admin_token(self) -> str:
        """Return the operators' token, which is the same for all."""
        return self.processes[0].admin_token()

    @property
    def are_alive(self) -> bool:
        """Return whether all servers run."""
        return all(process.is_alive() for process in self.processes)

    def next_url(self) -> str:
        """Return the address of a server: of each in turn, as a load balancer would choose."""
        return next(self._turns)

    def kill(self) -> None:
        """Kill all servers as a power cut would."""
        for process in self.processes:
            process.kill()

    async def restart(self) -> float:
        """Start all servers again at their addresses; return how many seconds it took."""
        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        for number, site in enumerate(self._sites):
            self.processes[number] = await loop.run_in_executor(self._starter, self._start, site)
        return time.monotonic() - began_s

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[Path]:
        """Stop all servers for as long as the block lasts; yield the first one's data folder."""
        self.stop()
        yield self._sites[0].folder
        await self.restart()

    def stop(self) -> None:
        """End all servers in good order."""
        for process in self.processes:
            process.stop()

    def _started(self, site: _Site) -> ServerProcess:
        return self._starter.submit(self._start, site).result()

    def _start(self, site: _Site) -> ServerProcess:
        with starting_on(self._core):
            return start_server(site.folder, options=site.options, environment=self._plan.environment)


@contextmanager
def running_servers(plan: ServerPlan, folder: Path, core: int | None = None) -> Iterator[ServerGroup]:
    """Run the servers of a plan for as long as the block lasts; nothing is left running afterwards.

    Args:
        plan: How many, with which settings.
        folder: For all that they write.
        core: The core that all of them keep to; None: any.
    Raises:
        ServerStartError: a server ended or stayed silent at its start.
        PostgresNotInstalled: there are to be replicas, and PostgreSQL's programs are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        url = stack.enter_context(_postgres()) if plan.replicas > 1 else None
        starter = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        group = ServerGroup(plan, folder, url, starter, core)
        stack.callback(group.stop)
        group.start()
        yield group


@contextmanager
def _postgres() -> Iterator[str]:
    """Run a PostgreSQL that is as durable as one that people rely on; yield an empty database's URL."""
    binaries, to_remove = installed_binaries()
    try:
        with PostgresServer.folder() as folder:
            server = PostgresServer(folder, binaries, is_durable=True)
            server.start()
            try:
                yield server.url(server.create())
            finally:
                server.stop()
    finally:
        if to_remove is not None:
            shutil.rmtree(to_remove)


def _head_keys(folder: Path) -> Path:
    """Make a file with a key for stored heads."""
    path = folder / "head_keys"
    add_key = [sys.executable, "-m", "keyflock_server", "heads", "add-key", str(path)]
    subprocess.run(add_key, check=True, capture_output=True)  # noqa: S603 - our own command
    return path
