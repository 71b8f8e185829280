"""A server's life on a machine: start, be ready, be told to stop, leave in bounded time."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from keyflock_server.data_folder import DataFolder
from keyflock_server.http.addresses import Addresses
from keyflock_server.http.application import Application
from keyflock_server.http.heartbeat import Heartbeat
from keyflock_server.http.lifecycles import Lifecycle
from keyflock_server.http.listeners import Listener
from keyflock_server.http.readiness import Readiness, Stage
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


class BackgroundLoopError(Exception):
    """Fault of the server: the loop that closes rounds died, and the process with it."""


@dataclass(frozen=True, slots=True)
class Port:
    """One application and where it listens."""

    application: Application
    host: str
    port: int


class Server:
    """Everything that runs in one process.

    Args:
        coordinator: What the two ports are a door to.
        folder: Let go of at the end; tells commands on this machine where the server is.
        sdk_port: For phones.
        admin_port: For operators.
        readiness: Told of every stage.
        heartbeat: The loop around the coordinator's ``tick``.
        shutdown_grace_s: How long stopping may wait for the pass at hand, for the coordinator, and for the
            answers in flight on either port.
    """

    def __init__(
        self,
        coordinator: Lifecycle,
        folder: DataFolder,
        *,
        sdk_port: Port,
        admin_port: Port,
        readiness: Readiness,
        heartbeat: Heartbeat,
        shutdown_grace_s: float,
    ) -> None:
        self._coordinator = coordinator
        self._folder = folder
        self._sdk_port = sdk_port
        self._admin_port = admin_port
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._shutdown_grace_s = shutdown_grace_s

    async def run(self, on_ready: Callable[[Addresses], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

        Args:
            on_ready: Told the addresses when calls are taken.
        Guarantees:
            After the first signal: no new work is admitted, what may be flushed is flushed, answers in flight
            are finished, and all that takes at most four times ``shutdown_grace_s``.
        Raises:
            ListenError: fault of the operator; a port cannot be had.
            BackgroundLoopError: the background loop died; its traceback is in the log.
        """
        with _stop_signals() as stop_asked:
            async with contextlib.AsyncExitStack() as stack:
                stack.callback(self._folder.release)
                sdk = await self._listen(self._sdk_port, stack)
                admin = await self._listen(self._admin_port, stack)
                await self._coordinator.start()
                stack.push_async_callback(self._stop_coordinator)
                beating = asyncio.create_task(self._heartbeat.run(), name="heartbeat")
                stack.push_async_callback(self._stop_beating, beating)
                self._readiness.stage = Stage.READY
                stack.callback(self._stop_admitting)
                addresses = Addresses(sdk.url, admin.url, os.getpid())
                addresses.write(self._folder.announcement)
                stack.callback(self._folder.announcement.unlink, missing_ok=True)
                on_ready(addresses)
                stopping = asyncio.create_task(stop_asked.wait(), name="stop")
                await asyncio.wait({beating, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
            if not stop_asked.is_set():
                raise _background_failure(beating)
        _log.info("stopped")

    async def _listen(self, port: Port, stack: contextlib.AsyncExitStack) -> Listener:
        listener = await Listener.open(
            port.application, port.host, port.port, shutdown_grace_s=self._shutdown_grace_s
        )
        stack.push_async_callback(listener.close)
        return listener

    def _stop_admitting(self) -> None:
        _log.info("stopping")
        self._readiness.stage = Stage.STOPPING

    async def _stop_beating(self, beating: asyncio.Task[None]) -> None:
        self._heartbeat.stop()
        # Never cancelled: a flush cut off after its commit would not know what it has committed.
        await asyncio.wait({beating}, timeout=self._shutdown_grace_s)

    async def _stop_coordinator(self) -> None:
        stopping = asyncio.create_task(self._coordinator.stop(), name="stop coordinator")
        done, _ = await asyncio.wait({stopping}, timeout=self._shutdown_grace_s)
        if done:
            stopping.result()
        else:
            # What was acknowledged is durable already; what was not, its phone sends again.
            _log.error("the coordinator did not stop in time", grace_s=self._shutdown_grace_s)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets; the next one has its usual effect."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def ask() -> None:
        asked.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        yield asked
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _background_failure(task: asyncio.Task[None]) -> BackgroundLoopError:
    error = task.exception() if not task.cancelled() else None
    _log.critical("the background loop died; the process goes with it", exc_info=error)
    return BackgroundLoopError(
        f"The background loop died: {type(error).__name__}; the log has the traceback."
    )
