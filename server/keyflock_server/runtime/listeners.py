"""Binds a port and serves an application on it, with or without TLS."""

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

from keyflock_server.http.application import Application
from keyflock_server.http.request_handler import HttpServer
from keyflock_server.http.tls_acceptor import TlsAcceptor
from keyflock_server.runtime.certificates import ServerCertificate

#: An idle connection is closed after this time; phones rarely send two requests in a row.
KEEPALIVE_S: Final = 75.0
#: For how long a body that was refused midway is still read, so that the response reaches the client.
LINGERING_S: Final = 4.0
#: Read buffer of each connection; aiohttp buffers twice as much before it stops reading, uncounted by us.
READ_BUFFER_BYTES: Final = 32_768
#: Connections that the system queues before we accept them; the system has its own limit, too.
BACKLOG: Final = 1_024
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


class ListenError(Exception):
    """Fault of the operator: a port cannot be bound; the message names it."""


class PortInUse(ListenError):
    """Something listens on the port already."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One bound port."""

    runner: web.ServerRunner
    url: str
    #: Accepts connections in TLS; None: aiohttp accepts them in plain text.
    acceptor: TlsAcceptor | None = None

    @classmethod
    async def open(
        cls,
        application: Application,
        host: str,
        port: int,
        *,
        shutdown_grace_s: float,
        certificate: ServerCertificate | None = None,
    ) -> Self:
        """Serve ``application`` on a port; with port 0 the system chooses one.

        Args:
            application: The request handling.
            host: The address, or a name of it.
            port: The port.
            shutdown_grace_s: For how long ``close`` waits for responses in flight.
            certificate: The port's certificate; None: the port speaks plain HTTP.
        Raises:
            PortInUse: something listens there already.
            ListenError: the port is not allowed, or the host is not this machine's.
        """
        server = HttpServer(
            application.handle,
            application.connections,
            access_log=None,  # durations and outcomes are metrics; a line a request would tell who spoke when
            auto_decompress=False,  # no Content-Encoding is taken, so nothing is ever inflated
            debug=False,  # with asyncio's debug mode, aiohttp would answer with tracebacks
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
            read_bufsize=READ_BUFFER_BYTES,
        )
        try:
            sockets = await _bound(host, port)
        except OSError as error:
            kind = PortInUse if error.errno == errno.EADDRINUSE else ListenError
            raise kind(f"Cannot listen on {host} port {port}: {_reason(error)}.") from None
        runner = web.ServerRunner(server, shutdown_timeout=shutdown_grace_s)
        await runner.setup()
        bound_port = sockets[0].getsockname()[1]
        if certificate is None:
            for sock in sockets:
                await web.SockSite(runner, sock, backlog=BACKLOG).start()
            return cls(runner, _url("http", host, bound_port))
        acceptor = TlsAcceptor(server, sockets, lambda: certificate.context, application.connections)
        acceptor.start()
        return cls(runner, _url("https", host, bound_port), acceptor)

    async def close(self) -> None:
        """Stop accepting, let responses in flight finish within the grace period, and close."""
        if self.acceptor is not None:
            await self.acceptor.close()
        await self.runner.cleanup()


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of the host."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _url(scheme: str, host: str, port: int) -> str:
    host = _ANY.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program has it"
        case errno.EACCES:
            return "only the system's administrator may"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case _:
            return error.strerror or str(error)
