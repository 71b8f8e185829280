"""A set of endpoints without sockets: aiohttp brings it streams, a simulation brings it whole requests.

One request goes through the same gates in the same order everywhere: route, readiness, credentials, content
headers, body, and only then the endpoint. Whatever goes wrong leaves as a problem document.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from keyflock_server.http.documents import Format
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.routes import Routed, Routes
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.door import StorageUnavailable
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.repeats import Repeats

#: Brings a body of at most so many bytes, or raises Refused.
ReadBody = Callable[[int], Awaitable[bytes]]
Clock = Callable[[], datetime]

_log: Final = logger("keyflock.http")
_UNROUTED: Final = "unrouted"
#: Nothing of what was asked is known to have happened: the phone asks again, which every call allows.
_COME_BACK: Final = Refused(
    ProblemCode.OVERLOADED,
    "The server's store does not answer; come back later.",
    ReturnWindow(min_s=5.0, max_s=30.0),
)


class Endpoint(Routed, Protocol):
    """A row of a table of calls, as far as a plane must know it."""

    @property
    def name(self) -> str:
        """The call's name in metrics and logs."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """0: the call takes no body."""
        ...


C = TypeVar("C", bound=Endpoint)
#: What a plane's gate learned from the credentials.
A = TypeVar("A")


class Plane(ABC, Generic[C, A]):
    """The gates that all calls of one table go through.

    Args:
        routes: The table.
        form: How answers are written.
        media_types: What the body of each call must be, by the call's name.
        readiness: Whether to take work now.
        metrics: Where durations, bytes and refusals are counted.
    """

    def __init__(
        self,
        routes: Routes[C],
        form: Format,
        *,
        media_types: Mapping[str, str],
        readiness: Readiness,
        metrics: Metrics,
    ) -> None:
        self._routes = routes
        self.form = form
        self._media_types = media_types
        self._readiness = readiness
        self.metrics = metrics
        self._repeats = Repeats()

    async def send(self, request: Request) -> Response:
        """The answer to a request that is all here: the plane as a ``calls.Exchange``."""

        async def read_body(limit_bytes: int) -> bytes:
            if len(request.body) > limit_bytes:
                raise body_too_large(limit_bytes)
            return request.body

        return await self.serve(request, read_body)

    async def serve(self, head: Request, read_body: ReadBody) -> Response:
        """The answer to ``head``, whose body is read only after every gate before it has opened.

        Guarantees:
            Always a response: a refusal or a failure is a problem document in this plane's format.
        """
        started = time.perf_counter()
        name = _UNROUTED
        try:
            call, parts = self._routes.match(head.method, head.path)
            name = call.name
            response = await self._answer(call, parts, head, read_body)
        except Refused as refused:
            response = self._refusal(name, refused)
        except (StorageUnavailable, TimeoutError) as error:
            if (untold := self._repeats.untold("store", error, name)) is not None:
                _log.error("the store does not answer", call=name, repeated=untold, exc_info=error)
            response = self._refusal(name, _COME_BACK)
        except Exception as error:  # noqa: BLE001 - the outermost gate: whatever failed, the caller hears so
            response = self._refusal(name, _incident(name, error))
        self.metrics.request_duration_s.labels(name).observe(time.perf_counter() - started)
        self.metrics.sent_bytes.labels(name).inc(len(response.body))
        return response

    @abstractmethod
    def _admit(self, call: C, parts: Mapping[str, str], headers: Mapping[str, str], head: Request) -> A:
        """What the endpoint needs of the head; raises Refused when the credentials do not open the call."""

    @abstractmethod
    async def _act(self, call: C, admission: A, body: bytes) -> Response:
        """Do what the call asks."""

    async def _answer(
        self, call: C, parts: Mapping[str, str], head: Request, read_body: ReadBody
    ) -> Response:
        self._readiness.require()
        headers = {name.lower(): value for name, value in head.headers.items()}
        admission = self._admit(call, parts, headers, head)
        body = b""
        if call.max_body_bytes:
            _check_content(headers, self._media_types[call.name], call.max_body_bytes)
            body = await read_body(call.max_body_bytes)
            self._readiness.require()  # a slow body may outlive the server's willingness
            self.metrics.received_bytes.labels(call.name).inc(len(body))
        elif _content_length(headers) or head.body:
            raise Refused(ProblemCode.BODY_TOO_LARGE, "This call takes no body.")
        return await self._act(call, admission, body)

    def _refusal(self, name: str, refused: Refused) -> Response:
        self.metrics.problems.labels(name, refused.code).inc()
        _log.debug("refused", call=name, code=refused.code)
        return self.form.problem(refused)


def bearer(headers: Mapping[str, str]) -> str | None:
    """The bearer token of a request, or None when there is no such header.

    Raises:
        Refused: fault of the client; ``token_invalid`` for another scheme.
    """
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(ProblemCode.TOKEN_INVALID, "The header Authorization must be 'Bearer <token>'.")
    return token.strip()


def body_too_large(limit_bytes: int) -> Refused:
    """The refusal of a body beyond its call's limit."""
    return Refused(ProblemCode.BODY_TOO_LARGE, f"This call takes at most {limit_bytes} bytes.")


def with_header(response: Response, name: str, value: str) -> Response:
    """The response with one more header."""
    return replace(response, headers={**response.headers, name: value})


def _check_content(headers: Mapping[str, str], media_type: str, limit_bytes: int) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refused(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not taken here; send the body as it is."
        )
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise Refused(ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"This call takes a body of type {media_type}.")
    if _content_length(headers) > limit_bytes:
        raise body_too_large(limit_bytes)


def _content_length(headers: Mapping[str, str]) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0


def _incident(call: str, error: Exception) -> Refused:
    incident = uuid.uuid4().hex[:12]
    _log.error("request failed", call=call, incident=incident, exc_info=error)
    return Refused(ProblemCode.INTERNAL, f"Incident {incident}; the server's log has the details.")
