"""What is not HTTP/1.1: answered by a problem document, counted, told by its kind, and quoted nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiohttp import http_parser, web, web_protocol

from keyflock_server.http.application import Application
from keyflock_server.http.connections import Connections
from keyflock_server.http.responses import MSGPACK
from keyflock_server.protocol import calls
from keyflock_server.protocol.problems import Problem, ProblemCode
from keyflock_server.runtime.listeners import Listener
from keyflock_server.telemetry.logs import configure_logs
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.conftest import SdkPort

pytestmark = pytest.mark.fault("D1")

SECRET = "hunter2-alice-typed-this"
SAID = SECRET.encode()
HEAD = b"Host: x\r\nAuthorization: Bearer " + SAID + b"\r\n"
CHUNKED = b"POST /v1/suggestions HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

#: Sent at once, and refused by either of aiohttp's parsers.
REFUSED: dict[str, bytes] = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SAID,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SAID + b"\r\n\r\n",
    "no version": b"GET /" + SAID + b"\r\n\r\n",
    "another version": b"GET /" + SAID + b" HTTP/3.0\r\n" + HEAD + b"\r\n",
    "version with a leading zero": b"GET /" + SAID + b" HTTP/01.1\r\n" + HEAD + b"\r\n",
    "no method": SAID + b"\r\n\r\n",
    "lower-case garbage": b"get it " + SAID + b"\r\n\r\n",
    "control character in the target": b"GET /\x01" + SAID + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "bytes in the target": b"GET /\xff\xfe" + SAID + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a URL that is none": b"GET http://[::" + SAID + b"/ HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a port that is none": b"GET http://" + SAID + b":99999999/ HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a long target": b"GET /" + SAID * 500 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + SAID * 500 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " * 1 + SAID + b"\r\nY: y\r\n" * 400 + b"\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: " + SAID + b"\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\n" + SAID + b" : y\r\n\r\n",
    "a control character in a token": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization:Bearer\t"
    + SAID
    + b"\x01\r\n\r\n",
    "a control character in another scheme": b"GET / HTTP/1.1\r\nAuthorization: Token "
    + SAID
    + b"\x00\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: " + SAID + b"\r\nHost: y\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n" + SAID,
    "a length that is none": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SAID + b"\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" + SAID,
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + SAID
    ),
    "an unknown coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + SAID + b"\r\n\r\n",
    "a body that is not chunked": CHUNKED + b"\x81\xa7context\xb1" + SAID + b"\r\n",
    "a chunk that is too short": CHUNKED + b"3\r\n" + SAID + b"\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"0x10;" + SAID + b"\r\n" + SAID + b"\r\n",
    "a trailer that is none": CHUNKED + b"3\r\nabc\r\n0\r\nTrailer " + SAID + b"\x01\r\n\r\n",
}
every_refused = pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())


@pytest.fixture(params=["C", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """aiohttp has two parsers, and which one is at work depends on how it was installed."""
    if request.param == "Python":
        monkeypatch.setattr(web_protocol, "HttpRequestParser", http_parser.HttpRequestParserPy)
    return str(request.param)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs("json", "DEBUG", stream)
    yield stream
    root.handlers, root.level = handlers, level


async def exchanged(sdk_port: SdkPort, *parts: bytes) -> bytes:
    """All that the server says to bytes on a connection of their own, until it ends it."""
    host, port = sdk_port.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            for _ in range(5):
                await asyncio.sleep(0)
        async with asyncio.timeout(120.0):
            while received := await reader.read(65_536):
                answer += received
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize(("first", "status"), [(True, b"200"), (False, b"401")])
async def test_where_a_header_is_repeated_its_first_value_counts(
    sdk_port: SdkPort, first: bool, status: bytes
) -> None:
    tokens = [sdk_port.device_token().encode(), b"no-token"]
    ours, other = tokens if first else tokens[::-1]
    path = f"/v1/populations/{sdk_port.phone.population}/release".encode()

    answer = await exchanged(
        sdk_port,
        b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
        b"Authorization: Bearer " + ours + b"\r\nAuthorization: Bearer " + other + b"\r\n\r\n",
    )

    assert answer.split()[1] == status


def problem_in(answer: bytes) -> Problem:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+msgpack" in head.lower()
    return msgspec.msgpack.decode(body, type=Problem)


def counted(sdk_port: SdkPort) -> dict[str, float]:
    return {
        sample.labels["kind"]: sample.value
        for family in sdk_port.metrics.malformed_requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["port"] == "phones" and sample.value
    }


@every_refused
@pytest.mark.usefixtures("parser")
async def test_it_is_answered_by_a_problem_of_ours_and_quoted_nowhere(
    sdk_port: SdkPort, log: io.StringIO, sent: bytes
) -> None:
    answer = await exchanged(sdk_port, sent)

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"server: keyflock\r\n" in head + b"\r\n"
    assert b"connection: close" in head
    assert b"aiohttp" not in head
    assert problem_in(answer).code is ProblemCode.MALFORMED_REQUEST
    assert sum(counted(sdk_port).values()) == 1.0
    assert SECRET not in log.getvalue()
    assert SAID not in answer
    assert "127.0.0.1" not in log.getvalue()
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines() if "keyflock.http" in line] == [
        "a request cannot be read"
    ]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "sent",
    [
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + SAID + b"\r\n\r\n",
        b"CONNECT " + SAID + b":1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: " + SAID + b"\r\nConnection: close\r\n\r\n",
        b"GET /" + SAID + b" HTTP/1.1\r\nHost: x\r\nExpect: " + SAID + b"\r\nConnection: close\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        b"GET /v1/"
        + SAID
        + b" HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        + SAID
        + b" X\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
    ],
    ids=["star", "connect", "expect", "expect elsewhere", "a body for a probe", "upgrade", "HTTP/1.0"],
)
async def test_no_answer_is_the_librarys_own(sdk_port: SdkPort, log: io.StringIO, sent: bytes) -> None:
    answer = await exchanged(sdk_port, sent)

    assert answer.startswith(b"HTTP/1.")
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert answer.lower().count(b"server: keyflock") == len(re.findall(rb"HTTP/1\.\d \d\d\d ", answer)) >= 1
    assert SAID not in answer
    assert SECRET not in log.getvalue()


@pytest.mark.usefixtures("parser")
async def test_a_body_whose_framing_breaks_while_it_is_read_is_refused_at_once(
    sdk_port: SdkPort, log: io.StringIO
) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in sdk_port.headers(calls.SUGGEST).items())
    head = f"POST /v1/suggestions HTTP/1.1\r\nHost: x\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"

    answer = await exchanged(sdk_port, head.encode() + b"3\r\nabc\r\n", SAID + b"\r\n", SAID)

    assert answer.startswith(b"HTTP/1.1 422 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert problem_in(answer).code is ProblemCode.MALFORMED_BODY
    assert counted(sdk_port) == {"framing": 1.0}
    assert SECRET not in log.getvalue()
    assert SAID not in answer


@pytest.mark.usefixtures("parser")
async def test_what_follows_a_good_request_is_answered_after_it(sdk_port: SdkPort, log: io.StringIO) -> None:
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = await exchanged(sdk_port, good + good, b"GET /" + SAID + b" HTTP/9\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"HTTP/1.1 400 Bad Request") == 1
    assert SECRET not in log.getvalue()


async def test_a_flood_of_them_is_told_once_and_counted_each(sdk_port: SdkPort, log: io.StringIO) -> None:
    for _ in range(5):
        await exchanged(sdk_port, REFUSED["TLS"])

    told = [json.loads(line) for line in log.getvalue().splitlines() if "cannot be read" in line]
    assert [(line["port"], line["kind"], line["repeated"]) for line in told] == [("phones", "tls", 0)]
    assert counted(sdk_port) == {"tls": 5.0}


async def test_an_answer_that_fails_is_a_problem_too_and_its_error_is_not_quoted(log: io.StringIO) -> None:
    async def fail(_request: web.BaseRequest) -> web.StreamResponse:
        raise ValueError(SECRET)

    connections = Connections(MSGPACK, Metrics(), port="phones")
    listener = await Listener.open(Application(fail, {}, connections), "127.0.0.1", 0, shutdown_grace_s=1.0)
    reader, writer = await asyncio.open_connection(*listener.url.removeprefix("http://").split(":"))
    writer.write(b"GET /" + SAID + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    await listener.close()

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert problem_in(answer).code is ProblemCode.INTERNAL
    assert SAID not in answer
    assert SECRET not in log.getvalue()
    (told,) = (json.loads(line) for line in log.getvalue().splitlines() if "keyflock" in line)
    assert (told["event"], told["error"]) == ("a connection failed", "ValueError")
