"""Each visit of a phone has a connection of its own to the server."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace, TracebackType
from typing import Final, Protocol, Self

import aiohttp

from keyflock_server.protocol.calls import Request, Response

#: Seconds between two pieces of an upload that trickles.
_PIECE_S: Final = 0.2


class Connection(Protocol):
    """Carries calls; it may also close right after sending."""

    async def send(self, request: Request) -> Response:
        """Send the request and return the server's answer.

        Raises:
            ConnectionError: the call or its answer was lost.
        """
        ...

    async def send_and_hang_up(self, request: Request) -> None:
        """Send all of ``request`` and close the connection before an answer can be read."""
        ...


async def trickle(body: bytes, bytes_per_s: float) -> AsyncIterator[bytes]:
    """Yield the body in pieces, a fifth of a second apart."""
    size = max(1, int(bytes_per_s * _PIECE_S))
    for start in range(0, len(body), size):
        if start:
            await asyncio.sleep(_PIECE_S)
        yield body[start : start + size]


class HttpConnection:
    """A connection over HTTP. Nothing is shared with other phones, so there is no queue on this side.

    Args:
        url: The server's SDK address.
        upload_bytes_per_s: How fast bodies go out; None: as fast as the network takes them.
    """

    def __init__(self, url: str, upload_bytes_per_s: float | None = None) -> None:
        self._url = url
        self._upload_bytes_per_s = upload_bytes_per_s
        self._is_sent = asyncio.Event()
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(self._note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[trace],
        )

    async def __aenter__(self) -> Self:
        """Return the open connection."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self._session.close()

    async def send(self, request: Request) -> Response:
        """Send the request; see ``Connection``."""
        headers = dict(request.headers)
        body: bytes | AsyncIterator[bytes] | None = request.body or None
        if body is not None and self._upload_bytes_per_s is not None:
            headers["Content-Length"] = str(len(request.body))  # without it the body would go in chunks
            body = trickle(request.body, self._upload_bytes_per_s)
        try:
            async with self._session.request(
                request.method, self._url + request.path, data=body, headers=headers
            ) as answer:
                answered = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, answered, await answer.read())
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error

    async def send_and_hang_up(self, request: Request) -> None:
        """Send and hang up; see ``Connection``."""
        self._is_sent.clear()
        call = asyncio.ensure_future(self.send(request))
        sent = asyncio.ensure_future(self._is_sent.wait())
        try:
            await asyncio.wait({call, sent}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
        finally:
            for task in (call, sent):
                task.cancel()
            await asyncio.gather(call, sent, return_exceptions=True)

    async def _note_sent(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        _chunk: aiohttp.TraceRequestChunkSentParams,
    ) -> None:
        self._is_sent.set()
