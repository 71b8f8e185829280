"""aiohttp around a plane: sockets to requests, responses to sockets, nothing else."""

from typing import Any, Final

from aiohttp import hdrs, web

from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.plane import Plane
from keyflock_server.http.probes import Probes
from keyflock_server.protocol.calls import Request, Response

PLANE: Final = web.AppKey("plane", Plane[Any, Any])
BODY_LIMITS: Final = web.AppKey("body_limits", BodyLimits)


def application(
    plane: Plane[Any, Any], body_limits: BodyLimits, probes: Probes, *, with_metrics: bool
) -> web.Application:
    """The web application that serves one plane and the probes.

    One catch-all route: the plane's own table decides what an address means, with and without sockets alike.
    """
    served = web.Application()
    served[PLANE] = plane
    served[BODY_LIMITS] = body_limits
    served.on_response_prepare.append(_name_server)
    probes.add_to(served, with_metrics=with_metrics)
    served.router.add_route(hdrs.METH_ANY, "/{path:.*}", _handle, expect_handler=_expect_later)
    return served


async def _handle(request: web.Request) -> web.Response:
    head = Request(request.method, request.raw_path, request.headers, peer=request.remote or "")
    with request.app[BODY_LIMITS].intake(request) as intake:
        answer = await request.app[PLANE].serve(head, intake.read)
    response = _web_response(answer)
    if not request.content.at_eof():
        response.force_close()  # what was refused unread must not be taken for the next request
    return response


async def _expect_later(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` unanswered: the body is asked for once the request is admitted."""


def _web_response(answer: Response) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """Say who answers, and not with which versions of which libraries."""
    response.headers[hdrs.SERVER] = "keyflock"
