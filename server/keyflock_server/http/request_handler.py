"""aiohttp's connection, changed to answer with problem documents, without a banner or quotations.

When a request cannot be read, aiohttp by itself logs a traceback that quotes it, with the client's address,
and answers in HTTP/1.0 with the same quotation and the versions of its parts. All of that passes through the
few methods that are replaced here, with either of its two parsers.

A request's head has its own timeout (Slowloris): from the connection, or from the first byte after a
response, to the head's end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
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

from keyflock_server.http.connections import LINGER_S, Connections
from keyflock_server.http.whole_response import SERVER_NAME, WholeResponse
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.connection_failures import MalformedKind

HandleRequest = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_READABLE_VERSIONS: Final = (HttpVersion10, HttpVersion11)
_HTTP2_PREFACE: Final = b"PRI * HTTP/2"
#: The first bytes of a TLS record that holds a handshake, or of SSL 2.
_TLS_HANDSHAKE: Final = (b"\x16\x03", b"\x80")


class HttpServer(web.Server):
    """Makes a ``RequestHandler`` for every connection of one port.

    Args:
        answer: Answers the requests that can be read.
        connections: Counts the port's connections.
        options: Options of aiohttp's server.
    """

    def __init__(self, answer: HandleRequest, connections: Connections, **options: Any) -> None:  # noqa: ANN401
        super().__init__(answer, request_factory=self._readable, **options)
        self._port_connections = connections

    def __call__(self) -> "RequestHandler":
        """Return the handler of a new connection."""
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
            message = message._replace(version=HttpVersion11)  # the response is written in it
        return kind(message, payload, protocol, writer, task, self._loop)


class UnreadableRequest(web.BaseRequest):
    """A request in another version of HTTP, which this server does not interpret."""


class RequestHandler(web.RequestHandler):
    """Handles one connection.

    Guarantees:
        Everything is logged through ``Connections``; all input is answered with the port's own documents, or
        by closing the connection.
    """

    __slots__ = (
        "_connections",
        "_first_bytes",
        "_handshake",
        "_head_timer",
        "_is_broken",
        "_is_receiving_head",
        "_is_secured",
        "_payload",
    )

    def __init__(self, manager: HttpServer, connections: Connections, **options: Any) -> None:  # noqa: ANN401
        super().__init__(manager, **options)
        self._connections = connections
        #: The connection's first bytes, which tell TLS and HTTP/2 from garbage.
        self._first_bytes = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_receiving_head = False
        #: The task that makes the TLS handshake, until there is a transport.
        self._handshake: asyncio.Task[None] | None = None
        self._is_secured = False
        #: After input that cannot be read, nothing more is read.
        self._is_broken = False
        #: The body of the newest request.
        self._payload = EMPTY_PAYLOAD

    def begin_handshake(self) -> bool:
        """Count the connection before its TLS handshake, and return False if it must be refused.

        The current task makes the handshake, and is cancelled if the connection has to give way.
        """
        self._handshake, self._is_secured = asyncio.current_task(), True
        return self._connections.admit(self)

    def end_handshake(self) -> None:
        """Forget the connection if its handshake has failed."""
        if self._handshake is not None:
            self._handshake = None
            self._connections.mark_closed(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or refuse it."""
        if self._handshake is not None:
            self._handshake = None
            self._connections.mark_waiting(self)
        elif not self._connections.admit(self):
            self._refuse(transport)
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        self._connections.mark_closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; a request that cannot be read is the connection's last."""
        if self._is_broken or self._force_close or self._close:
            return
        if not self._request_count and len(self._first_bytes) < len(_HTTP2_PREFACE):
            self._first_bytes += data[: len(_HTTP2_PREFACE)]
        in_body, before = not self._payload.is_eof(), self._request_count
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - input that the parser did not expect is the sender's fault, too
            self._request_count += 1
            self._messages.append((_unreadable(error), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        if self._request_count > before:
            self._requests_received(in_body=in_body)
        elif data and not in_body:
            self._is_receiving_head = True
            if self._head_timer is None:
                self._await_head()

    def _requests_received(self, *, in_body: bool) -> None:
        self._stop_head_timer()
        self._is_receiving_head = False
        self._connections.mark_busy(self)
        if not self._messages:
            return
        newest, payload = self._messages[-1]
        if isinstance(newest, RawRequestMessage):
            self._payload = payload
            return
        self._is_broken = True
        if in_body and not self._payload.is_eof():
            # The body cannot be read; its reader must get an error and not wait for more.
            self._messages.pop()
            self._connections.record_malformed(MalformedKind.FRAMING)
            self._payload.set_exception(web.RequestPayloadError("The body's framing cannot be read."))

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on where reading was paused; aiohttp calls this for every body that is read."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the parser's words quote the request
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or whose handler failed, with a problem document."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer is sent already")
        if status == HTTPStatus.BAD_REQUEST:
            answer = self._connections.malformed_response(self._kind_of(exc))
        else:
            answer = self._connections.failure_response(exc)
        response = WholeResponse(answer)
        response.force_close()
        return response

    def log_exception(self, *_args: object, exc_info: BaseException | None = None, **_: object) -> None:
        """Log a failure, unless the cause is only a client that sends nonsense or leaves."""
        if not isinstance(
            exc_info, web.RequestPayloadError | BadHttpMessage | PayloadEncodingError | OSError
        ):
            self._connections.failure_response(exc_info)

    def log_debug(self, *_args: object, **_: object) -> None:
        """Log nothing: clients that leave early are no event."""

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response; afterwards the connection waits for the next request's head."""
        finished = await super().finish_response(request, resp, start_time)
        if not self._messages:
            self._connections.mark_waiting(self)
        return finished

    async def _drain_helper(self) -> None:
        """Wait until the client has read what fills the connection's buffer, and only so long.

        A small response never waits here: the buffer takes it.
        """
        overdue = self._loop.call_later(self._connections.answer_timeout_s, self._abort)
        try:
            await super()._drain_helper()
        finally:
            overdue.cancel()

    def _abort(self) -> None:
        """Abort the connection of a client that does not read its response: it would stay open for ever."""
        if self.transport is not None:
            self.transport.abort()

    def close_if_idle(self) -> bool:
        """See ``connections.CountedConnection``."""
        if self._handshake is not None:
            self._handshake.cancel()
            return True
        if self._messages or self._current_request is not None:
            return False
        self.force_close()
        if self._is_secured:
            self._abort()  # or it would wait for the other side to take its leave
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
            self._await_head()  # the head arrived behind a request that is still being answered
            return
        if self._is_receiving_head and self.transport is not None:
            kind = MalformedKind.SLOW_HEAD
            if self._first_bytes.startswith(_TLS_HANDSHAKE) and not self._request_count:
                kind = MalformedKind.TLS  # one of the parsers waits for ever for a line's end
            self.transport.write(serialize_response(self._connections.malformed_response(kind)))
        self.force_close()

    def _refuse(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._force_close = True
        transport.write(serialize_response(self._connections.overload_response()))
        if not self._connections.try_linger():
            transport.close()
            return
        # If it were closed at once, bytes that the client sends meanwhile would reset it before it is read.
        transport.write_eof()
        self._loop.call_later(LINGER_S, self._end_lingering, transport)

    def _end_lingering(self, transport: asyncio.Transport) -> None:
        transport.abort()
        self._connections.stop_lingering()


def serialize_response(answer: Response) -> bytes:
    """Return the response as bytes, with ``Connection: close``."""
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
    """Return aiohttp's own record of a request that cannot be read."""
    return _ErrInfo(status=400, exc=error, message="")
