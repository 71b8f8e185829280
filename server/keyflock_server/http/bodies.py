"""Reading bodies from the network within bounds: bytes a call, seconds a body, bodies and bytes at once."""

import asyncio
import io
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http import HttpProcessingError

from keyflock_server.http.plane import body_too_large
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.metrics import Metrics


class BodyLimits:
    """What all bodies in flight may take together; phones beyond it are told to come back.

    Args:
        max_bodies: Bodies being read or answered at once.
        max_bytes: Bytes of bodies held at once: of those that arrive or are being answered, and what is kept
            of them after the answer (``held_after_answer``). What has arrived counts, not what a header
            promises, so that idle connections cannot use the limit up.
        timeout_s: Time for one body to arrive.
        metrics: Where both are shown.
        whose: Under which name.
    """

    def __init__(
        self, max_bodies: int, max_bytes: int, timeout_s: float, metrics: Metrics, whose: str = "phones"
    ) -> None:
        self._max_bodies = max_bodies
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.whose = whose
        self._in_flight = metrics.bodies_in_flight.labels(whose)
        self._bytes_in_flight = metrics.body_bytes_in_flight.labels(whose)
        self._bodies = 0
        self._bytes = 0
        #: Bytes of bodies that were answered and are still needed.
        self.held_after_answer: Callable[[], int] = int

    @property
    def in_flight(self) -> int:
        """Requests being read or answered now."""
        return self._bodies

    def intake(self, request: web.BaseRequest) -> "Intake":
        """The place that this request's body takes until the request is answered."""
        return Intake(self, request, self._timeout_s)

    def take_body(self) -> None:
        """Count one more body, or refuse it."""
        if self._bodies >= self._max_bodies:
            raise _overloaded("too many requests are in flight")
        self._bodies += 1
        self._in_flight.set(self._bodies)

    def take_bytes(self, size_bytes: int) -> None:
        """Count more bytes, or refuse them."""
        if self._bytes + self.held_after_answer() + size_bytes > self._max_bytes:
            raise _overloaded("the bodies in flight fill the memory set aside for them")
        self._bytes += size_bytes
        self._bytes_in_flight.set(self._bytes)

    def give_back(self, bodies: int, size_bytes: int) -> None:
        """Uncount what an answered request took."""
        self._bodies -= bodies
        self._bytes -= size_bytes
        self._in_flight.set(self._bodies)
        self._bytes_in_flight.set(self._bytes)


class Intake:
    """One request's body on its way in; as a context manager it gives its place back."""

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
        self._limits.give_back(self._bodies, self._bytes)

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            Refused: fault of the client (``body_too_large``, ``body_timeout``, ``malformed_body`` when it
                breaks off) or of the server (``overloaded``).
        """
        self._limits.take_body()
        self._bodies = 1
        await self._continue()
        received = io.BytesIO()  # which hands out what it has grown to, without a copy
        try:
            async with asyncio.timeout(self._timeout_s):
                while chunk := await self._request.content.readany():
                    if self._bytes + len(chunk) > limit_bytes:
                        raise body_too_large(limit_bytes)
                    self._limits.take_bytes(len(chunk))
                    self._bytes += len(chunk)
                    received.write(chunk)
        except TimeoutError:
            raise Refused(
                ProblemCode.BODY_TIMEOUT, f"The body did not arrive within {self._timeout_s:g} s."
            ) from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise Refused(ProblemCode.MALFORMED_BODY, "The body broke off.") from None
        return received.getvalue()

    async def _continue(self) -> None:
        """Ask for the body of a client that waits to be asked: it is admitted by now."""
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0


def _overloaded(why: str) -> Refused:
    return Refused(ProblemCode.OVERLOADED, f"Come back later: {why}.", ReturnWindow(min_s=5.0, max_s=30.0))
