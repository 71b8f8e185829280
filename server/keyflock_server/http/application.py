"""Serves an endpoint group through aiohttp: sockets to requests, responses to sockets, nothing else.

aiohttp's router is not used: the group's own table decides what an address means, with and without sockets
alike, and the probes are fixed addresses beside it. So aiohttp never writes a response of its own.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import Connections
from keyflock_server.http.endpoint_group import EndpointGroup
from keyflock_server.http.request_handler import UnreadableRequest
from keyflock_server.http.streamed_response import StreamingResponse
from keyflock_server.http.whole_response import WholeResponse
from keyflock_server.protocol.calls import Request, Response, StreamedResponse
from keyflock_server.protocol.connection_failures import MalformedKind

Probe = Callable[[], Response]

_PROBE_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Application:
    """The request handling of one port.

    Args:
        answer: Answers every request that is not for a probe.
        probes: The probes by their paths.
        connections: Counts the port's connections, and answers requests that cannot be read.
        is_own_host: Whether a request with this header ``Host`` is for this port; None: every request is.
    """

    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    probes: Mapping[str, Probe]
    connections: Connections
    is_own_host: Callable[[str | None], bool] | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request; ``Expect`` is answered when the body is read."""
        if isinstance(request, UnreadableRequest):
            return self._unreadable(MalformedKind.VERSION)
        if not request.raw_path.isascii():
            return self._unreadable(MalformedKind.REQUEST_LINE)
        if self.is_own_host is not None and not self.is_own_host(request.headers.get("host")):
            return self._unreadable(MalformedKind.FOREIGN_HOST)
        probe = self.probes.get(request.raw_path.partition("?")[0])
        if probe is not None and request.method in _PROBE_METHODS:
            response: web.StreamResponse = WholeResponse(probe())
        else:
            response = await self.answer(request)
        if not request.content.at_eof():
            response.force_close()  # an unread body must not be parsed as the next request
        return response

    def _unreadable(self, kind: MalformedKind) -> web.StreamResponse:
        response = WholeResponse(self.connections.malformed_response(kind))
        response.force_close()
        return response


def application(
    endpoints: EndpointGroup[Any],
    body_limits: BodyLimits,
    probes: Mapping[str, Probe],
    connections: Connections | None = None,
    is_own_host: Callable[[str | None], bool] | None = None,
) -> Application:
    """Return the application that serves one endpoint group and the probes on a port.

    Args:
        endpoints: The port's calls.
        body_limits: What their request bodies may take together.
        probes: The probes by their paths.
        connections: Counts the port's connections; None: one with the defaults is made.
        is_own_host: Whether a request with this header ``Host`` is for this port; None: every request is.
    """
    if connections is None:
        connections = Connections(endpoints.form, endpoints.metrics, port=body_limits.port)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        head = Request(request.method, request.raw_path, request.headers, peer=request.remote or "")
        with body_limits.reader(request) as body_reader:
            response: Response = await endpoints.serve(head, body_reader.read)
        if isinstance(response, StreamedResponse):
            return StreamingResponse(response)
        return WholeResponse(response)

    return Application(answer, probes, connections, is_own_host)
