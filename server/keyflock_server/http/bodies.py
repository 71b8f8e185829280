"""Reads request bodies within bounds: bytes per call, seconds per body, bodies and bytes in flight."""

import asyncio
import io
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.streams import StreamReader

from keyflock_server.http.endpoint_group import body_too_large
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.metrics import Metrics


class BodyLimits:
    """Limits the bodies in flight together; requests beyond the limits are answered ``overloaded``.

    Args:
        max_bodies: Maximum number of bodies being read or answered at once.
        max_bytes: Maximum number of body bytes in memory: of bodies that arrive or are being answered, and
            what is still needed of them after the response (``held_after_answer``). Only bytes that have
            arrived count, not those that a header promises, so that idle connections cannot use the limit up.
        timeout_s: Time for one body to arrive.
        metrics: Shows both numbers.
        port: The port's label in the metrics: ``phones`` or ``operators``.
    """

    def __init__(
        self, max_bodies: int, max_bytes: int, timeout_s: float, metrics: Metrics, port: str = "phones"
    ) -> None:
        self._max_bodies = max_bodies
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.port = port
        self._bodies = 0
        self._bytes = 0
        #: Returns the bytes of bodies that were answered and are still needed.
        self.held_after_answer: Callable[[], int] = int
        metrics.bodies_in_flight.labels(port).set_function(lambda: self._bodies)
        metrics.body_bytes_in_flight.labels(port).set_function(lambda: self._bytes)

    @property
    def in_flight(self) -> int:
        """Return how many requests are being read or answered now."""
        return self._bodies

    def reader(self, request: web.BaseRequest) -> "BodyReader":
        """Return a reader for the request's body, which is in flight until the request is answered."""
        return BodyReader(self, request, self._timeout_s)

    def reserve_body(self) -> None:
        """Count one more body; raises ApiError when there are too many."""
        if self._bodies >= self._max_bodies:
            raise _overloaded_error("too many requests are in flight")
        self._bodies += 1

    def reserve_bytes(self, size_bytes: int) -> None:
        """Count more bytes; raises ApiError when there are too many."""
        if self._bytes + self.held_after_answer() + size_bytes > self._max_bytes:
            raise _overloaded_error("the bodies in flight fill the memory set aside for them")
        self._bytes += size_bytes

    def release(self, bodies: int, size_bytes: int) -> None:
        """Subtract an answered request's bodies and bytes from the counts."""
        self._bodies -= bodies
        self._bytes -= size_bytes


class BodyReader:
    """Reads the body of one request; as a context manager it releases what it reserved."""

    __slots__ = ("_bodies", "_bytes", "_limits", "_request", "_timeout_s")

    def __init__(self, limits: BodyLimits, request: web.BaseRequest, timeout_s: float) -> None:
        self._limits = limits
        self._request = request
        self._timeout_s = timeout_s
        self._bodies = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.release(self._bodies, self._bytes)

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            ApiError: fault of the client (``body_too_large``, ``body_timeout``, ``malformed_body`` when it
                breaks off) or of the server (``overloaded``).
        """
        self._limits.reserve_body()
        self._bodies = 1
        if "Expect" in self._request.headers:
            await self._continue()
        content = self._request.content
        try:
            if content.is_eof():  # the whole body came with the head, as small ones do
                body = content.read_nowait()
                self._reserve(len(body), limit_bytes)
                return body
            return await self._read_until_end(content, limit_bytes)
        except TimeoutError:
            raise ApiError(
                ProblemCode.BODY_TIMEOUT, f"The body did not arrive within {self._timeout_s:g} s."
            ) from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise ApiError(ProblemCode.MALFORMED_BODY, "The body broke off.") from None

    async def _read_until_end(self, content: StreamReader, limit_bytes: int) -> bytes:
        received = io.BytesIO()  # getvalue() returns what it has grown to without a copy
        async with asyncio.timeout(self._timeout_s):
            while chunk := await content.readany():
                self._reserve(len(chunk), limit_bytes)
                received.write(chunk)
        return received.getvalue()

    def _reserve(self, size_bytes: int, limit_bytes: int) -> None:
        """Count bytes that have arrived; raises ApiError beyond the limit of the call, or of all bodies."""
        if self._bytes + size_bytes > limit_bytes:
            raise body_too_large(limit_bytes)
        self._limits.reserve_bytes(size_bytes)
        self._bytes += size_bytes

    async def _continue(self) -> None:
        """Send 100 Continue to a client that waits for it; the request has passed all earlier checks."""
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0


def _overloaded_error(why: str) -> ApiError:
    return ApiError(ProblemCode.OVERLOADED, f"Come back later: {why}.", ReturnWindow(min_s=5.0, max_s=30.0))
