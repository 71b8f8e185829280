"""Accepts the connections of a port that speaks TLS, and makes their handshakes.

A connection holds a file descriptor from its first instant on, and whoever opens it need not say a word. So
it is counted before its handshake: one that makes none in time is closed, and at the port's cap it gives way
like any other that waits. asyncio's own server would count it once its handshake has ended.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from keyflock_server.http.connections import Connections
from keyflock_server.http.request_handler import HttpServer
from keyflock_server.protocol.connection_failures import HandshakeFailure

#: Pause after an accept that failed because no file can be opened, which ``descriptors`` says in the log.
_RETRY_PAUSE_S: Final = 1.0
_VERSION_REASONS: Final = ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_SHARED_CIPHER")


class TlsAcceptor:
    """Accepts the connections of one port.

    Args:
        server: Makes the handler of each connection.
        listening: The port's sockets, which do not block.
        context: Returns the context for the next handshake.
        connections: Counts the connections; a handshake has the time of a request's head.
    """

    def __init__(
        self,
        server: HttpServer,
        listening: Sequence[socket.socket],
        context: Callable[[], ssl.SSLContext],
        connections: Connections,
    ) -> None:
        self._server = server
        self._listening = tuple(listening)
        self._context = context
        self._connections = connections
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to accept."""
        for sock in self._listening:
            self._run(self._accept(sock))

    async def close(self) -> None:
        """Accept no more and end the handshakes under way; connections that are past theirs stay."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._listening:
            sock.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # it has left already
            except OSError:
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            self._run(self._shake_hands(sock))
            await asyncio.sleep(0)  # a flood of connections keeps nobody from an answer

    async def _shake_hands(self, sock: socket.socket) -> None:
        handler, loop = self._server(), asyncio.get_running_loop()
        if not handler.begin_handshake():
            sock.close()
            return
        try:
            await loop.connect_accepted_socket(
                lambda: handler,
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=self._connections.header_timeout_s,
            )
        except OSError as error:
            self._connections.record_handshake_failure(_failure(error))
        finally:
            handler.end_handshake()


def _failure(error: OSError) -> HandshakeFailure:
    match error:
        case ssl.SSLError(reason="HTTP_REQUEST"):
            return HandshakeFailure.PLAIN_HTTP
        case ssl.SSLError(reason=str(reason)) if reason.endswith(_VERSION_REASONS):
            return HandshakeFailure.VERSION
        case ssl.SSLError(reason=str(reason)) if "_ALERT_" in reason:
            return HandshakeFailure.REFUSED
        case ssl.SSLError():
            return HandshakeFailure.MALFORMED
        case ConnectionAbortedError():
            return HandshakeFailure.TIMEOUT
        case _:
            return HandshakeFailure.LEFT
