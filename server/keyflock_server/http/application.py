"""aiohttp around a plane: sockets to requests, responses to sockets, nothing else.

There is no router of aiohttp's: the plane's own table decides what an address means, with and without sockets
alike, and the probes are three fixed addresses beside it. So no answer is ever aiohttp's.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import Connections, MalformedKind
from keyflock_server.http.plane import Plane
from keyflock_server.http.probes import Probe, Probes
from keyflock_server.http.request_handler import UnreadableRequest, web_response
from keyflock_server.protocol.calls import Request, Response

_PROBED_BY: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Application:
    """What one port answers.

    Args:
        answer: Answers every address that is no probe's.
        probes: The probes by their paths.
        connections: Counts the port's connections, and answers what cannot be read.
    """

    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    probes: Mapping[str, Probe]
    connections: Connections

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the answer to one request; ``Expect`` waits until the body is asked for."""
        if isinstance(request, UnreadableRequest):
            return self._unreadable(MalformedKind.VERSION)
        if not request.raw_path.isascii():
            return self._unreadable(MalformedKind.REQUEST_LINE)
        probe = self.probes.get(request.raw_path.partition("?")[0])
        if probe is not None and request.method in _PROBED_BY:
            response: web.StreamResponse = web_response(probe())
        else:
            response = await self.answer(request)
        if not request.content.at_eof():
            response.force_close()  # what was refused unread must not be taken for the next request
        return response

    def _unreadable(self, kind: MalformedKind) -> web.StreamResponse:
        response = web_response(self.connections.malformed(kind))
        response.force_close()
        return response


def application(
    plane: Plane[Any, Any],
    body_limits: BodyLimits,
    probes: Probes,
    *,
    with_metrics: bool,
    connections: Connections | None = None,
) -> Application:
    """Return what serves one plane and the probes on a port.

    Args:
        plane: The port's calls.
        body_limits: What their bodies may take together.
        probes: Served beside the plane.
        with_metrics: Whether the figures are served, too.
        connections: The port's; None: with the defaults.
    """
    if connections is None:
        connections = Connections(plane.form, plane.metrics, port=body_limits.whose)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        head = Request(request.method, request.raw_path, request.headers, peer=request.remote or "")
        with body_limits.intake(request) as intake:
            answered: Response = await plane.serve(head, intake.read)
        return web_response(answered)

    return Application(answer, probes.by_path(with_metrics=with_metrics), connections)
