"""Binds a port and serves an application on it."""

import errno
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

from keyflock_server.http.application import Application
from keyflock_server.http.request_handler import HttpServer

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

    @classmethod
    async def open(cls, application: Application, host: str, port: int, *, shutdown_grace_s: float) -> Self:
        """Serve ``application`` on a port; with port 0 the system chooses one.

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
        runner = web.ServerRunner(server, shutdown_timeout=shutdown_grace_s)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            kind = PortInUse if error.errno == errno.EADDRINUSE else ListenError
            raise kind(f"Cannot listen on {host} port {port}: {_reason(error)}.") from None
        address = runner.addresses[0]
        return cls(runner, _url(host, address[1]))

    async def close(self) -> None:
        """Stop accepting, let responses in flight finish within the grace period, and close."""
        await self.runner.cleanup()


def _url(host: str, port: int) -> str:
    host = _ANY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
