"""Connections: a head has its time, a port its cap, and whoever is turned away hears why."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiohttp import web

from keyflock_server.descriptors import RESERVE, DescriptorWatch, max_phone_connections
from keyflock_server.http.application import Application, application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import MAX_LINGERING, Connections
from keyflock_server.http.responses import MSGPACK
from keyflock_server.http.whole_response import WholeResponse
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.problems import Problem, ProblemCode
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener
from keyflock_server.runtime.probes import Probes
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.http.conftest import SdkPort

pytestmark = pytest.mark.fault("D14")

HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-More: "
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def nothing() -> None:
    """A heart that has nothing to do."""


class RawClient:
    """A client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> bytes:
        """One answer, head and body."""
        async with asyncio.timeout(60.0):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return head + await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60.0):
                while more := await self._reader.read(65_536):
                    received += more
        return received

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class SmallPort:
    """A port with a small cap."""

    def __init__(self, sdk_port: SdkPort, listener: Listener, metrics: Metrics) -> None:
        self._listener, self._metrics = listener, metrics
        self.sdk_port = sdk_port
        self._callers: list[RawClient] = []

    async def call(self) -> RawClient:
        host, port = self._listener.url.removeprefix("http://").split(":")
        self._callers.append(RawClient(*await asyncio.open_connection(host, int(port))))
        return self._callers[-1]

    async def settled(self, connections: int) -> None:
        """The server has seen so many connections."""
        async with asyncio.timeout(60.0):
            while self.figure("keyflock_open_connections", port="phones") != connections:  # noqa: ASYNC110 - the other side runs in this loop
                await asyncio.sleep(0)

    def figure(self, name: str, **labels: str) -> float | None:
        return self._metrics.registry.get_sample_value(name, labels)

    def closed_early(self, cause: str) -> float | None:
        return self.figure("keyflock_connections_closed_early_total", port="phones", cause=cause)

    async def close(self) -> None:
        for caller in self._callers:
            await caller.close()
        await self._listener.close()


@pytest.fixture
async def port(request: pytest.FixtureRequest, sdk_port: SdkPort) -> AsyncIterator[SmallPort]:
    options = {"max_connections": 3, "header_timeout_s": 30.0, **getattr(request, "param", {})}
    connections = Connections(MSGPACK, sdk_port.metrics, port="phones", **options)
    probes = Probes(sdk_port.readiness, Heartbeat(nothing, 1.0, sdk_port.metrics), sdk_port.metrics)
    limits = BodyLimits(100, 10**8, 30.0, sdk_port.metrics)
    served = application(sdk_port.endpoints, limits, probes.by_path(with_metrics=False), connections)
    opened = SmallPort(
        sdk_port, await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0), sdk_port.metrics
    )
    yield opened
    await opened.close()


quick = pytest.mark.parametrize("port", [{"header_timeout_s": 0.05}], indirect=True)


@quick
async def test_a_head_that_does_not_arrive_in_time_is_answered_and_the_connection_ends(
    port: SmallPort,
) -> None:
    caller = await port.call()
    await caller.send(HALF_A_HEAD)

    answer = await caller.rest()

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    problem = msgspec.msgpack.decode(answer.partition(b"\r\n\r\n")[2], type=Problem)
    assert problem.code is ProblemCode.MALFORMED_REQUEST
    assert port.figure("keyflock_malformed_requests_total", port="phones", kind="slow_head") == 1.0
    await port.settled(0)


@quick
async def test_a_connection_over_which_nothing_comes_ends_without_a_word(port: SmallPort) -> None:
    caller = await port.call()

    assert await caller.rest() == b""


@quick
async def test_the_next_head_on_a_kept_connection_has_its_time_from_its_first_byte(port: SmallPort) -> None:
    caller = await port.call()
    await caller.send(HEALTHZ)
    first = await caller.answer()
    await caller.send(HALF_A_HEAD)

    rest = await caller.rest()

    assert first.startswith(b"HTTP/1.1 200 OK")
    assert rest.startswith(b"HTTP/1.1 400 Bad Request")


@quick
async def test_a_request_that_takes_long_to_answer_is_not_cut_by_the_heads_time(port: SmallPort) -> None:
    headers = "".join(f"{k}: {v}\r\n" for k, v in port.sdk_port.headers(calls.REPORT).items())
    body = port.sdk_port.good_body(calls.REPORT)
    port.sdk_port.service.gate.clear()
    caller = await port.call()
    await caller.send(
        f"PUT /v1/assignments/a-1/report HTTP/1.1\r\nHost: x\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        + HALF_A_HEAD
    )
    await port.sdk_port.service.called.wait()
    idle = await port.call()  # whose time passes meanwhile
    assert await idle.rest() == b""

    port.sdk_port.service.gate.set()

    assert (await caller.answer()).startswith(b"HTTP/1.1 200 OK")


async def test_at_the_cap_the_connection_that_waits_longest_gives_way(port: SmallPort) -> None:
    half_open = [await port.call() for _ in range(3)]
    for caller in half_open:
        await caller.send(HALF_A_HEAD)
    await port.settled(3)

    newcomer = await port.call()
    await newcomer.send(HEALTHZ)

    assert (await newcomer.answer()).startswith(b"HTTP/1.1 200 OK")
    assert await half_open[0].rest() == b""
    await half_open[1].send(b"x\r\n\r\n")
    assert (await half_open[1].answer()).startswith(b"HTTP/1.1 200 OK")
    assert (port.closed_early("displaced"), port.closed_early("turned_away")) == (1.0, 0.0)


async def test_where_all_have_a_request_under_way_a_new_one_is_told_when_to_come_back(
    port: SmallPort,
) -> None:
    port.sdk_port.service.gate.clear()
    body = port.sdk_port.good_body(calls.REPORT)
    headers = "".join(f"{k}: {v}\r\n" for k, v in port.sdk_port.headers(calls.REPORT).items())
    request = (
        f"PUT /v1/assignments/a-1/report HTTP/1.1\r\nHost: x\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    busy = [await port.call() for _ in range(3)]
    for caller in busy:
        await caller.send(request)
    async with asyncio.timeout(60.0):
        while len(port.sdk_port.service.calls) < 3:  # noqa: ASYNC110 - the other side runs in this loop
            await asyncio.sleep(0)

    newcomer = await port.call()
    await newcomer.send(HEALTHZ)
    answer = await newcomer.answer()
    port.sdk_port.service.gate.set()

    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 5\r\n" in answer
    assert b"connection: close\r\n" in answer
    assert (
        msgspec.msgpack.decode(answer.partition(b"\r\n\r\n")[2], type=Problem).code is ProblemCode.OVERLOADED
    )
    assert port.closed_early("turned_away") == 1.0
    for caller in busy:
        assert (await caller.answer()).startswith(b"HTTP/1.1 200 OK")


def test_few_of_those_that_are_turned_away_may_linger() -> None:
    connections = Connections(MSGPACK, Metrics(), port="phones")

    lingering = [connections.try_linger() for _ in range(MAX_LINGERING + 1)]
    connections.stop_lingering()

    assert lingering == [True] * MAX_LINGERING + [False]
    assert connections.try_linger()


@pytest.mark.parametrize(
    ("wanted", "limit", "allowed"),
    [
        (None, 1024, 1024 - RESERVE - 64),
        (None, 1_048_576, 10_000),
        (100, 1024, 100),
        (50_000, 1_048_576, 50_000),
        (5_000, 1024, 1024 - RESERVE - 64),
        (None, 64, 32),
        (None, 1, 1),
    ],
)
def test_phones_get_what_the_limit_of_open_files_leaves(wanted: int | None, limit: int, allowed: int) -> None:
    assert max_phone_connections(wanted, 64, limit) == allowed


def test_a_limit_that_is_too_low_for_the_settings_is_told(caplog: pytest.LogCaptureFixture) -> None:
    max_phone_connections(768, 64, 1024)
    assert caplog.records == []

    max_phone_connections(769, 64, 1024)

    (record,) = caplog.records
    assert (record.levelname, vars(record)["wanted"], vars(record)["max_connections"]) == (
        "WARNING",
        769,
        768,
    )


async def test_a_process_without_a_free_descriptor_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    watch = DescriptorWatch(metrics)
    await watch.tick()
    assert caplog.records == []

    monkeypatch.setattr("keyflock_server.descriptors.os.devnull", "/nowhere/at/all")
    for _ in range(3):
        await watch.tick()

    assert metrics.registry.get_sample_value("keyflock_descriptor_shortages_total") == 3.0
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(body=io.BytesIO(bytes(50_000_000))),  # more than sockets' buffers hold
        lambda: WholeResponse(Response(200, {}, bytes(50_000_000))),
    ],
    ids=["in parts", "as a whole"],
)
async def test_a_client_that_does_not_take_its_answer_is_let_go(
    response: Callable[[], web.StreamResponse],
) -> None:
    metrics, answered = Metrics(), asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        answered.set()
        return response()

    connections = Connections(MSGPACK, metrics, port="phones", answer_timeout_s=0.05)
    served = Application(answer, {}, connections)
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)
    host, number = listener.url.removeprefix("http://").split(":")
    caller = RawClient(*await asyncio.open_connection(host, int(number), limit=1))

    await caller.send(HEALTHZ)
    await answered.wait()
    gauge = ("keyflock_open_connections", {"port": "phones"})
    async with asyncio.timeout(60.0):
        while metrics.registry.get_sample_value(*gauge) != 0.0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)

    await caller.close()
    await listener.close()
