"""Calls over HTTP use one client session with a bounded number of connections for a whole fleet."""

import ssl
from types import TracebackType
from typing import Final, Self

import aiohttp

from keyflock_server.protocol.calls import Request, Response

MAX_CONNECTIONS: Final = 64
CALL_TIMEOUT_S: Final = 60.0


class HttpExchange:
    """A ``calls.Exchange`` over HTTP; use it as ``async with``.

    Args:
        url: The server's address for phones, for example ``http://127.0.0.1:8700``.
        max_connections: More calls than that wait for a connection.
        timeout_s: A call that takes longer is lost.
        trust: The authorities of the server's certificate; None: the system's.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = MAX_CONNECTIONS,
        timeout_s: float = CALL_TIMEOUT_S,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, ssl=trust or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        """Return the exchange, ready to send."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, request: Request) -> Response:
        """Send the request; see ``Exchange``."""
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                headers=dict(request.headers),
                data=request.body or None,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
