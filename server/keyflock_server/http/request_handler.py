"""aiohttp's connection, saying what it says in our words: problem documents, no banner, no quotation.

What aiohttp does by itself when a request cannot be read is to log a traceback that quotes it, with the
client's address, and to answer in HTTP/1.0 with the same quotation and the versions of its parts. All of that
passes through the few methods that are replaced here, whichever of its two parsers is at work.

A request's head has a time of its own (Slowloris): from the connection, or from the first byte after an
answer, to the head's end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    InvalidURLError,
    LineTooLong,
    PayloadEncodingError,
    TransferEncodingError,
)
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, _ErrInfo

from keyflock_server.http.connections import LINGER_S, Connections, MalformedKind
from keyflock_server.protocol.calls import Response

SERVER_NAME: Final = "keyflock"
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_READABLE_VERSIONS: Final = (HttpVersion10, HttpVersion11)
_HTTP2_PREFACE: Final = b"PRI * HTTP/2"
#: The first bytes of a TLS record that holds a handshake, or of SSL 2.
_TLS_HANDSHAKE: Final = (b"\x16\x03", b"\x80")


class HttpServer(web.Server):
    """Makes a ``RequestHandler`` for every connection of one port.

    Args:
        answer: Answers what can be read.
        connections: Counts the port's connections.
        options: As aiohttp's server takes them.
    """

    def __init__(self, answer: Answer, connections: Connections, **options: Any) -> None:  # noqa: ANN401
        super().__init__(answer, request_factory=self._readable, **options)
        self._port_connections = connections

    def __call__(self) -> "RequestHandler":
        """A new connection's handler."""
        return RequestHandler(self, self._port_connections, loop=self._loop, **self._kwargs)

    def _readable(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        kind = web.BaseRequest
        if message.version not in _READABLE_VERSIONS:
            kind = UnreadableRequest
        if message is ERROR or kind is UnreadableRequest:
            message = message._replace(version=HttpVersion11)  # in which it is answered
        return kind(message, payload, protocol, writer, task, self._loop)


class UnreadableRequest(web.BaseRequest):
    """A request in another version of HTTP: its words may mean anything."""


class RequestHandler(web.RequestHandler):
    """One connection.

    Guarantees:
        Nothing is logged but through ``Connections``; whatever comes over the wire is answered by the port's
        own documents, or by the end of the connection.
    """

    __slots__ = (
        "_connections",
        "_first_bytes",
        "_head_timer",
        "_is_broken",
        "_is_receiving_head",
        "_payload",
    )

    def __init__(self, manager: HttpServer, connections: Connections, **options: Any) -> None:  # noqa: ANN401
        super().__init__(manager, **options)
        self._connections = connections
        #: Of the connection: they tell TLS and HTTP/2 from garbage.
        self._first_bytes = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_receiving_head = False
        #: Nothing that comes after what cannot be read can be read.
        self._is_broken = False
        #: The body of the newest request.
        self._payload = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or turn it away."""
        if not self._connections.admit(self):
            self._turn_away(transport)
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a request that cannot be read is the connection's last."""
        if self._is_broken or self._force_close or self._close:
            return
        if not self._request_count and len(self._first_bytes) < len(_HTTP2_PREFACE):
            self._first_bytes += data[: len(_HTTP2_PREFACE)]
        in_body, before = not self._payload.is_eof(), self._request_count
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - what the parser did not foresee is the sender's fault, too
            self._request_count += 1
            self._messages.append((_unreadable(error), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        if self._request_count > before:
            self._requests_came(in_body=in_body)
        elif data and not in_body:
            self._is_receiving_head = True
            if self._head_timer is None:
                self._await_head()

    def _requests_came(self, *, in_body: bool) -> None:
        self._stop_head_timer()
        self._is_receiving_head = False
        self._connections.is_served(self)
        if not self._messages:
            return
        newest, payload = self._messages[-1]
        if isinstance(newest, RawRequestMessage):
            self._payload = payload
            return
        self._is_broken = True
        if in_body and not self._payload.is_eof():
            # It is the body that cannot be read, and whoever reads it must hear of it, not wait for more.
            self._messages.pop()
            self._connections.note_malformed(MalformedKind.FRAMING)
            self._payload.set_exception(web.RequestPayloadError("The body's framing cannot be read."))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the parser's words quote the request
    ) -> web.StreamResponse:
        """Answer what cannot be read, or what could not be answered, with a problem document."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer is sent already")
        if status == HTTPStatus.BAD_REQUEST:
            answer = self._connections.malformed(self._kind_of(exc))
        else:
            answer = self._connections.failed(exc)
        response = web_response(answer)
        response.force_close()
        return response

    def log_exception(self, *_args: object, exc_info: BaseException | None = None, **_: object) -> None:
        """Tell of a failure, unless a client that sends nonsense, or leaves, is all there is to it."""
        if not isinstance(
            exc_info, web.RequestPayloadError | BadHttpMessage | PayloadEncodingError | OSError
        ):
            self._connections.failed(exc_info)

    def log_debug(self, *_args: object, **_: object) -> None:
        """Say nothing: clients that leave early are no event."""

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; the connection waits for the next head then."""
        overdue = self._loop.call_later(self._connections.answer_timeout_s, self._abort)
        try:
            finished = await super().finish_response(request, resp, start_time)
        finally:
            overdue.cancel()
        if not self._messages:
            self._connections.waits(self)
        return finished

    def _abort(self) -> None:
        """End the connection of who does not take its answer: it would be held for ever."""
        if self.transport is not None:
            self.transport.abort()

    def give_way(self) -> bool:
        """See ``connections.CountedConnection``."""
        if self._messages or self._current_request is not None:
            return False
        self.force_close()
        return True

    def _kind_of(self, error: BaseException | None) -> MalformedKind:
        if self._request_count <= 1 and self._first_bytes.startswith(_TLS_HANDSHAKE):
            return MalformedKind.TLS
        if self._request_count <= 1 and self._first_bytes.startswith(_HTTP2_PREFACE):
            return MalformedKind.HTTP2
        match error:
            case LineTooLong():
                return MalformedKind.TOO_LONG
            case BadStatusLine() | BadHttpMethod() | InvalidURLError():
                return MalformedKind.REQUEST_LINE
            case TransferEncodingError() | PayloadEncodingError():
                return MalformedKind.FRAMING
            case _:
                return MalformedKind.HEADERS

    def _await_head(self) -> None:
        self._stop_head_timer()
        self._head_timer = self._loop.call_later(self._connections.header_timeout_s, self._head_is_overdue)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_overdue(self) -> None:
        self._head_timer = None
        if self._messages or self._current_request is not None:
            self._await_head()  # it came behind a request that is still being answered
            return
        if self._is_receiving_head and self.transport is not None:
            kind = MalformedKind.SLOW_HEAD
            if self._first_bytes.startswith(_TLS_HANDSHAKE) and not self._request_count:
                kind = MalformedKind.TLS  # without a line's end in it, one of the parsers waits for ever
            self.transport.write(serialized(self._connections.malformed(kind)))
        self.force_close()

    def _turn_away(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._force_close = True
        transport.write(serialized(self._connections.turning_away()))
        if not self._connections.may_linger():
            transport.close()
            return
        # Closed at once, what the client has sent meanwhile would reset the connection before it could read.
        transport.write_eof()
        self._loop.call_later(LINGER_S, self._end_lingering, transport)

    def _end_lingering(self, transport: asyncio.Transport) -> None:
        transport.abort()
        self._connections.lingered()


def web_response(answer: Response) -> web.Response:
    """The answer as aiohttp sends it: with the server's name, and not with its libraries'."""
    headers = {**answer.headers, hdrs.SERVER: SERVER_NAME}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def serialized(answer: Response) -> bytes:
    """The answer as bytes, after which the connection ends."""
    headers = {
        **answer.headers,
        "content-length": str(len(answer.body)),
        "server": SERVER_NAME,
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    phrase = HTTPStatus(answer.status).phrase
    return f"HTTP/1.1 {answer.status} {phrase}\r\n{lines}\r\n".encode("ascii") + answer.body


def _unreadable(error: Exception) -> _ErrInfo:
    """Aiohttp's own note of a request that cannot be read."""
    return _ErrInfo(status=400, exc=error, message="")
