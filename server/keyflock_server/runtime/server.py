"""The life of a server process: it starts, serves, and stops in bounded time when it is signalled."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from keyflock_server.data_folder import DataFolder
from keyflock_server.http.application import Application
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.runtime.addresses import Addresses
from keyflock_server.runtime.certificates import ServerCertificate
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.lifecycles import Lifecycle
from keyflock_server.runtime.listeners import Listener, ListenError, PortInUse
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


class BackgroundLoopError(Exception):
    """Fault of the server: the loop that closes rounds died, and the process with it."""


@dataclass(frozen=True, slots=True)
class PortBinding:
    """One application, and the host and port that it listens on."""

    application: Application
    host: str
    port: int
    #: None: the port speaks plain HTTP.
    certificate: ServerCertificate | None = None


class Server:
    """Runs everything in one process.

    Args:
        coordinator: The coordinator behind the two ports.
        folder: Released at the end; its announcement tells commands on this machine where the server is.
        sdk_port: The port for phones.
        admin_port: The port for operators.
        readiness: Stores the server's state.
        heartbeat: The loop around the coordinator's ``tick``.
        shutdown_grace_s: How long stopping may wait for the current pass, for the coordinator, and for the
            responses in flight on either port.
        end_streams: Ends responses that would go on for ever, when the server begins to stop.
    """

    def __init__(
        self,
        coordinator: Lifecycle,
        folder: DataFolder,
        *,
        sdk_port: PortBinding,
        admin_port: PortBinding,
        readiness: Readiness,
        heartbeat: Heartbeat,
        shutdown_grace_s: float,
        end_streams: Callable[[], None] = lambda: None,
    ) -> None:
        self._coordinator = coordinator
        self._folder = folder
        self._sdk_port = sdk_port
        self._admin_port = admin_port
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._shutdown_grace_s = shutdown_grace_s
        self._end_streams = end_streams

    async def run(self, on_ready: Callable[[Addresses], None]) -> None:
        """Serve until SIGTERM, SIGHUP or SIGINT; a second signal ends the process at once.

        Args:
            on_ready: Called with the addresses once the server accepts calls.
        Guarantees:
            After the first signal: no new work is accepted, what may be flushed is flushed, responses in
            flight are finished, and all that takes at most four times ``shutdown_grace_s``.
        Raises:
            ListenError: fault of the operator; a port cannot be bound.
            BackgroundLoopError: the background loop died; its traceback is in the log.
        """
        with _stop_signals() as stop_requested:
            async with contextlib.AsyncExitStack() as stack:
                stack.callback(self._folder.release)
                sdk = await self._listen(self._sdk_port, stack)
                try:
                    admin = await self._listen(self._admin_port, stack)
                except PortInUse as error:
                    if self._admin_port.port == self._sdk_port.port:
                        raise _ports_alike(self._admin_port) from None
                    raise error from None
                await self._coordinator.start()
                stack.push_async_callback(self._stop_coordinator)
                heartbeat_task = asyncio.create_task(self._heartbeat.run(), name="heartbeat")
                stack.push_async_callback(self._stop_heartbeat, heartbeat_task)
                self._readiness.state = ServerState.READY
                stack.callback(self._stop_admitting)
                addresses = Addresses(sdk.url, admin.url, os.getpid())
                addresses.write(self._folder.announcement)
                stack.callback(self._folder.announcement.unlink, missing_ok=True)
                on_ready(addresses)
                stopping = asyncio.create_task(stop_requested.wait(), name="stop")
                await asyncio.wait({heartbeat_task, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
            if not stop_requested.is_set():
                raise _background_failure(heartbeat_task)
        _log.info("stopped")

    async def _listen(self, port: PortBinding, stack: contextlib.AsyncExitStack) -> Listener:
        listener = await Listener.open(
            port.application,
            port.host,
            port.port,
            shutdown_grace_s=self._shutdown_grace_s,
            certificate=port.certificate,
        )
        stack.push_async_callback(listener.close)
        return listener

    def _stop_admitting(self) -> None:
        _log.info("stopping")
        self._readiness.state = ServerState.STOPPING
        self._end_streams()

    async def _stop_heartbeat(self, heartbeat_task: asyncio.Task[None]) -> None:
        self._heartbeat.stop()
        # It is never cancelled: a flush cut off after its commit would not know what it has committed.
        await asyncio.wait({heartbeat_task}, timeout=self._shutdown_grace_s)

    async def _stop_coordinator(self) -> None:
        stopping = asyncio.create_task(self._coordinator.stop(), name="stop coordinator")
        done, _ = await asyncio.wait({stopping}, timeout=self._shutdown_grace_s)
        if done:
            stopping.result()
        else:
            # Acknowledged reports are durable already; phones send the others again.
            _log.error("the coordinator did not stop in time", grace_s=self._shutdown_grace_s)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Return an event that the first signal to stop sets; the next one has its usual effect.

    SIGHUP comes when the terminal is closed; under ``nohup`` it is ignored, and stays so.
    """
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)

    def request_stop() -> None:
        stop_requested.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in signals:
        loop.add_signal_handler(number, request_stop)
    try:
        yield stop_requested
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _ports_alike(admin: PortBinding) -> ListenError:
    return ListenError(
        f"Cannot listen on {admin.host} port {admin.port}: it is this server's port for phones. "
        "Give operators another one: --admin-port."
    )


def _background_failure(task: asyncio.Task[None]) -> BackgroundLoopError:
    error = task.exception() if not task.cancelled() else None
    _log.critical("the background loop died; the process goes with it", exc_info=error)
    return BackgroundLoopError(
        f"The background loop died: {type(error).__name__}; the log has the traceback."
    )
