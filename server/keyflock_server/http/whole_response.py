"""A response whose head and body are written at once, with the server's name instead of its libraries'.

aiohttp's own response builds a map of headers, adds to it, serialises it, and copies the body behind it; the
responses of this server are all there before the first byte is written.

Source: RFC 9112.
"""

from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion, HttpVersion11

from keyflock_server.protocol.calls import Response

SERVER_NAME: Final = "keyflock"
#: A larger body is not copied behind its head: uvloop passes both to the system in one call.
_MAX_COPIED_BYTES: Final = 16_384
#: Responses without a body, whatever the method (RFC 9110, 15.3.5 and 15.4.5).
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}


class WholeResponse(web.StreamResponse):
    """Writes one response as a whole.

    Args:
        answer: The response.
    """

    def __init__(self, answer: Response) -> None:
        # aiohttp's own constructor makes maps that nobody reads: half of what this object costs.
        self._state = {}
        self._status = answer.status
        self._answer = answer

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Decide whether the connection stays open; nothing is written yet."""
        self._req = request
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp passes none
        """Write the response, and wait for the client to read where it fills the connection's buffer.

        Raises:
            ConnectionResetError: the client has left.
        """
        request = self._req
        if request is None:
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        is_without_body = self._status in _WITHOUT_BODY or request.method == "HEAD"
        head = self._head(request.version, is_without_body=is_without_body)
        body = b"" if is_without_body else self._answer.body
        if len(body) <= _MAX_COPIED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self._req, self._eof_sent = None, True
        if request.protocol.writing_paused:
            await request.writer.drain()

    def _head(self, version: HttpVersion, *, is_without_body: bool) -> bytes:
        answer = self._answer
        headers = "".join([f"{name}: {value}\r\n" for name, value in answer.headers.items()])
        length = ""
        if answer.body or not is_without_body:
            length = f"Content-Length: {len(answer.body)}\r\n"
        connection = ""
        if version == HttpVersion11:
            if not self._keep_alive:
                connection = "Connection: close\r\n"
        elif self._keep_alive:
            connection = "Connection: keep-alive\r\n"
        return (
            f"HTTP/{version.major}.{version.minor} {answer.status} {_PHRASES[answer.status]}\r\n"
            f"{headers}Server: {SERVER_NAME}\r\n{length}Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        ).encode("ascii")
