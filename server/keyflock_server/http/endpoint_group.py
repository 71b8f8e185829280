"""A group of endpoints without sockets: aiohttp passes it streams, a simulation passes it whole requests.

Every request passes the same checks in the same order: route, readiness, credentials, content headers, body,
and only then the endpoint. Every failure is answered with a problem document.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from keyflock_server.http.readiness import Readiness
from keyflock_server.http.responses import ResponseFormat
from keyflock_server.http.routes import Routes, RouteSpec
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.telemetry.log_context import RequestContext
from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.series.calls import UNROUTED

#: Reads a request body of at most this many bytes, or raises ApiError.
ReadBody = Callable[[int], Awaitable[bytes]]
Clock = Callable[[], datetime]

#: Names the request in the log; a request's own header of this name is not read.
REQUEST_ID_HEADER: Final = "x-request-id"
_LOGGER: Final = "keyflock.http"
_log: Final = logger(_LOGGER)
#: It is not known whether the call had any effect; the phone repeats it, which every call allows.
_STORE_UNAVAILABLE: Final = ApiError(
    ProblemCode.OVERLOADED,
    "The server's store does not answer; come back later.",
    ReturnWindow(min_s=5.0, max_s=30.0),
)


class Endpoint(RouteSpec, Protocol):
    """A row of a table of calls, as far as an endpoint group must know it."""

    @property
    def name(self) -> str:
        """Return the call's name in metrics and logs."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """Return the maximum size of the request body; 0 if the call takes none."""
        ...


C = TypeVar("C", bound=Endpoint)


class EndpointGroup(ABC, Generic[C]):
    """The checks and the answers to failures that all calls of one table share.

    Args:
        routes: The table of calls.
        form: The format of responses.
        media_types: The media types that the body of each call may have, by the call's name.
        readiness: Says whether the server takes work now.
        metrics: Counts durations, bytes and problem documents.
        shows_request_id: Whether every response has the request's id in ``X-Request-Id``.
    """

    def __init__(
        self,
        routes: Routes[C],
        form: ResponseFormat,
        *,
        media_types: Mapping[str, Collection[str]],
        readiness: Readiness,
        metrics: Metrics,
        shows_request_id: bool = False,
    ) -> None:
        self._routes = routes
        self.form = form
        self._media_types = media_types
        self._readiness = readiness
        self.metrics = metrics
        self._shows_request_id = shows_request_id
        self._log_throttle = LogThrottle()
        self._problems = metrics.problems.labels

    async def send(self, request: Request) -> Response:
        """Return the response to a whole request; this makes the group a ``calls.Exchange``."""

        async def read_body(limit_bytes: int) -> bytes:
            if len(request.body) > limit_bytes:
                raise body_too_large(limit_bytes)
            return request.body

        headers = {name.lower(): value for name, value in request.headers.items()}
        return await self.serve(replace(request, headers=headers), read_body)

    async def serve(self, head: Request, read_body: ReadBody) -> Response:
        """Return the response to ``head``, whose body is read only after all checks before it have passed.

        Args:
            head: The request without its body. Its headers are found by their names in lower case.
            read_body: Reads its body.
        Guarantees:
            There is always a response: a failed call gets a problem document in this group's format.
        """
        with RequestContext() as request:
            response = await self._response(request, head, read_body)
        return with_header(response, REQUEST_ID_HEADER, request.id) if self._shows_request_id else response

    async def _response(self, request: RequestContext, head: Request, read_body: ReadBody) -> Response:
        started = time.perf_counter()
        name = UNROUTED
        try:
            call, path_params = self._routes.match(head.method, head.path)
            name = call.name
            response = await self._answer(call, path_params, head, read_body)
        except ApiError as error:
            response = self._problem_response(name, error)
        except (StorageUnavailable, TimeoutError) as error:
            if (suppressed := self._log_throttle.suppressed_count("store", error, name)) is not None:
                _log.error("the store does not answer", call=name, repeated=suppressed, exc_info=error)
            response = self._problem_response(name, _STORE_UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - outermost handler: the caller gets a response in any case
            response = self._problem_response(name, _internal_error(name, request.id, error))
        self.metrics.calls.of(name).answered(time.perf_counter() - started, len(response.body))
        return response

    @abstractmethod
    async def _answer(
        self, call: C, path_params: Mapping[str, str], head: Request, read_body: ReadBody
    ) -> Response:
        """Check readiness and credentials, read the body by ``_body``, and run the call's endpoint."""

    async def _body(self, call: C, head: Request, read_body: ReadBody) -> bytes:
        """Return the request's body; its headers are checked before it is read."""
        headers = head.headers
        if call.max_body_bytes:
            _check_content(headers, self._media_types[call.name], call.max_body_bytes)
            body = await read_body(call.max_body_bytes)
            self._readiness.require()  # the server may have begun to stop while a slow body arrived
            self.metrics.calls.of(call.name).received(len(body))
            return body
        if _content_length(headers) or head.body:
            raise ApiError(ProblemCode.BODY_TOO_LARGE, "This call takes no body.")
        return b""

    def _problem_response(self, name: str, error: ApiError) -> Response:
        self._problems(name, error.code).inc()
        if error.code is ProblemCode.INTERNAL:
            self.metrics.internal_errors.inc()
        if logging.getLogger(_LOGGER).isEnabledFor(logging.DEBUG):  # the call below takes longer to find out
            _log.debug("refused", call=name, code=error.code)
        return self.form.problem(error)


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the bearer token of a request, or None when the header is missing.

    Raises:
        ApiError: fault of the client; ``token_invalid`` for another authentication scheme.
    """
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ApiError(ProblemCode.TOKEN_INVALID, "The header Authorization must be 'Bearer <token>'.")
    return token


def body_too_large(limit_bytes: int) -> ApiError:
    """Return the error for a body beyond its call's limit."""
    return ApiError(ProblemCode.BODY_TOO_LARGE, f"This call takes at most {limit_bytes} bytes.")


def with_header(response: Response, name: str, value: str) -> Response:
    """Return the response with one more header."""
    return replace(response, headers={**response.headers, name: value})


def media_type_of(headers: Mapping[str, str]) -> str:
    """Return the media type of the request's body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_content(headers: Mapping[str, str], media_types: Collection[str], limit_bytes: int) -> None:
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise ApiError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not taken here; send the body as it is."
        )
    if headers.get("content-type") not in media_types and media_type_of(headers) not in media_types:
        taken = " or ".join(media_types)
        raise ApiError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"This call takes a body of type {taken}.")
    if _content_length(headers) > limit_bytes:
        raise body_too_large(limit_bytes)


def _content_length(headers: Mapping[str, str]) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0


def _internal_error(call: str, incident: str, error: Exception) -> ApiError:
    _log.error("request failed", call=call, incident=incident, exc_info=error)
    return ApiError(ProblemCode.INTERNAL, f"Incident {incident}; the server's log has the details.")
