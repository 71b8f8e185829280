"""A response that is written as a whole has the bytes that aiohttp's own would have."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from keyflock_server.http.application import Application
from keyflock_server.http.connections import Connections
from keyflock_server.http.responses import MSGPACK
from keyflock_server.http.whole_response import WholeResponse
from keyflock_server.protocol.calls import Response
from keyflock_server.runtime.listeners import Listener
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TYPED = {"content-type": "application/msgpack", "cache-control": "no-store"}
ANSWERS = {
    "/small": Response(200, TYPED, b"\x80"),
    "/empty": Response(200, TYPED, b""),
    "/large": Response(200, {"content-type": "application/vnd.keyflock.model"}, bytes(range(256)) * 8_000),
    "/known": Response(304, {"etag": '"aa"', "vary": "authorization"}, b""),
    "/delta": Response(226, {**TYPED, "im": "keyflock-delta"}, b"delta"),
    "/problem": Response(503, {**TYPED, "retry-after": "5"}, b"problem"),
    "/unauthorised": Response(401, {**TYPED, "www-authenticate": "Bearer"}, b"problem"),
}
DATE = re.compile(rb"\r\nDate: [^\r]+")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port that answers /own/… as a whole, and /aiohttp/… with aiohttp's response; ?close closes."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        style, _, path = request.path[1:].partition("/")
        found = ANSWERS[f"/{path}"]
        response: web.StreamResponse = WholeResponse(found)
        if style == "aiohttp":
            headers = {**found.headers, "Server": "keyflock"}
            response = web.Response(status=found.status, body=found.body, headers=headers)
        if "close" in request.raw_path:
            response.force_close()
        return response

    served = Application(answer, {}, Connections(MSGPACK, Metrics(), port="phones"))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)
    yield int(listener.url.rpartition(":")[2])
    await listener.close()


async def answers(port: int, head: str) -> bytes:
    """Send a request twice over one connection, and return all that comes until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    last = head.replace("Connection: keep-alive\r\n", "") + "Connection: close\r\n"
    writer.write(f"{head}\r\n{last}\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert len(DATE.findall(answer)) >= 1
    return DATE.sub(b"\r\nDate: now", answer)


@pytest.mark.parametrize("path", [*ANSWERS, "/small?close"])
@pytest.mark.parametrize(
    "head",
    [
        "GET {path} HTTP/1.1\r\nHost: x\r\n",
        "HEAD {path} HTTP/1.1\r\nHost: x\r\n",
        "GET {path} HTTP/1.0\r\n",
        "GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n",
    ],
    ids=["1.1", "HEAD", "1.0", "1.0 kept alive"],
)
async def test_a_whole_response_has_the_bytes_of_aiohttps_own(port: int, path: str, head: str) -> None:
    own = await answers(port, head.format(path=f"/own{path}"))
    aiohttps = await answers(port, head.format(path=f"/aiohttp{path}"))

    assert own == aiohttps
    assert own.startswith(b"HTTP/1.")


async def test_who_has_left_gets_nothing_and_nothing_fails(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /own/large HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
    await reader.read(10)
    writer.transport.abort()

    assert (await answers(port, "GET /own/small HTTP/1.1\r\nHost: x\r\n")).endswith(b"\x80")
