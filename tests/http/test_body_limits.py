"""Bodies in flight: each is counted while it is needed, given back however it ends, and limited exactly."""

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http import HttpProcessingError

from keyflock_server.http.bodies import BodyLimits, BodyReader
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.metrics import Metrics

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ScriptedRequest:
    """A request whose body comes in these chunks; an exception among them is raised in its turn.

    Args:
        chunks: What comes.
        expect: The header Expect.
        at_once: The body is all there when its request is.
    """

    def __init__(self, *chunks: bytes | Exception, expect: str = "", at_once: bool = False) -> None:
        self._chunks = list(chunks)
        self._at_once = at_once
        self.headers = {"Expect": expect} if expect else {}
        self.content = self
        self.writer = SimpleNamespace(write=self._write, output_size=0)
        self.written: list[bytes] = []
        self.error_of_write: Exception | None = None

    def is_eof(self) -> bool:
        return self._at_once

    def read_nowait(self) -> bytes:
        assert self._at_once
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
        return b"".join(chunk for chunk in self._chunks if isinstance(chunk, bytes))

    async def readany(self) -> bytes:
        assert not self._at_once
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def _write(self, data: bytes) -> None:
        if self.error_of_write is not None:
            raise self.error_of_write
        self.written.append(data)
        self.writer.output_size += len(data)


both_ways = pytest.mark.parametrize("at_once", [False, True], ids=["in parts", "at once"])


def limits_of(max_bodies: int = 2, max_bytes: int = 100, timeout_s: float = 30.0) -> tuple[BodyLimits, Any]:
    """Return limits, and a function that returns what the metrics show: bodies, and their bytes."""
    metrics = Metrics()

    def shown() -> tuple[float | None, float | None]:
        names = ("keyflock_bodies_in_flight", "keyflock_body_bytes_in_flight")
        bodies, size_bytes = (metrics.registry.get_sample_value(name, {"port": "phones"}) for name in names)
        return bodies, size_bytes

    return BodyLimits(max_bodies, max_bytes, timeout_s, metrics), shown


def reader(limits: BodyLimits, request: ScriptedRequest) -> BodyReader:
    scripted: Any = request
    return limits.reader(scripted)


async def problem(limits: BodyLimits, request: ScriptedRequest, limit_bytes: int = 100) -> ApiError:
    """Read a body that cannot be read, and return why."""
    with pytest.raises(ApiError) as refused, reader(limits, request) as body:
        await body.read(limit_bytes)
    return refused.value


@both_ways
async def test_a_body_is_in_flight_until_its_request_is_answered(at_once: bool) -> None:
    limits, shown = limits_of()

    with reader(limits, ScriptedRequest(b"abc", b"de", at_once=at_once)) as body:
        before = shown()
        read = await body.read(5)
        while_answered = shown(), limits.in_flight

    assert read == b"abcde"
    assert before == (0.0, 0.0)
    assert while_answered == ((1.0, 5.0), 1)
    assert (shown(), limits.in_flight) == ((0.0, 0.0), 0)


@both_ways
@pytest.mark.parametrize(
    ("chunks", "code", "detail"),
    [
        ([b"x" * 11], ProblemCode.BODY_TOO_LARGE, "10"),
        ([b"x" * 10, b"x"], ProblemCode.BODY_TOO_LARGE, "10"),
        ([b"x", web.RequestPayloadError("cut")], ProblemCode.MALFORMED_BODY, "The body broke off."),
        ([b"x", HttpProcessingError(message="bad")], ProblemCode.MALFORMED_BODY, "The body broke off."),
        ([b"x", ConnectionResetError()], ProblemCode.MALFORMED_BODY, "The body broke off."),
    ],
)
async def test_a_body_that_is_not_read_to_its_end_is_given_back(
    chunks: list[bytes | Exception], code: ProblemCode, detail: str, at_once: bool
) -> None:
    limits, shown = limits_of()

    error = await problem(limits, ScriptedRequest(*chunks, at_once=at_once), limit_bytes=10)

    assert error.code is code
    assert detail in error.detail
    assert shown() == (0.0, 0.0)


async def test_a_body_is_given_back_whatever_ends_its_request() -> None:
    limits, shown = limits_of()

    async def serve() -> None:
        with reader(limits, ScriptedRequest(b"abc")) as body:
            await body.read(10)
            raise RuntimeError("in the service")

    with pytest.raises(RuntimeError):
        await serve()
    assert shown() == (0.0, 0.0)


async def test_a_body_that_takes_too_long_is_given_back_and_told_how_long_it_had() -> None:
    limits, shown = limits_of(timeout_s=0.001)
    never: Any = ScriptedRequest(b"abc")
    first = never.readany

    async def trickle() -> bytes:
        return bytes(await first()) or await asyncio.Event().wait()  # type: ignore[return-value]  # it never returns

    never.readany = trickle
    error = await problem(limits, never)

    assert (error.code, error.detail) == (
        ProblemCode.BODY_TIMEOUT,
        "The body did not arrive within 0.001 s.",
    )
    assert shown() == (0.0, 0.0)


async def test_as_many_bodies_as_the_limit_are_in_flight_and_the_next_is_sent_away() -> None:
    limits, shown = limits_of(max_bodies=2)

    with reader(limits, ScriptedRequest(b"a")) as first, reader(limits, ScriptedRequest(b"b")) as second:
        await first.read(1)
        await second.read(1)
        error = await problem(limits, ScriptedRequest(b"c"))
        while_full = shown()
    with reader(limits, ScriptedRequest(b"c")) as third:
        again = await third.read(1)

    assert (error.code, error.detail) == (
        ProblemCode.OVERLOADED,
        "Come back later: too many requests are in flight.",
    )
    assert error.retry == ReturnWindow(min_s=5.0, max_s=30.0)
    assert while_full == (2.0, 2.0)
    assert again == b"c"


@pytest.mark.parametrize("held", [0, 30])
async def test_as_many_bytes_as_the_limit_are_in_flight_and_one_more_is_too_many(held: int) -> None:
    limits, shown = limits_of(max_bodies=9, max_bytes=100)
    limits.held_after_answer = lambda: held
    room = 100 - held

    with reader(limits, ScriptedRequest(b"x" * (room - 10))) as first:
        await first.read(1_000)
        beyond = await problem(limits, ScriptedRequest(b"x" * 10, b"y"))
        without_it = shown()
        with reader(limits, ScriptedRequest(b"x" * 10)) as second:
            await second.read(1_000)
            full = shown()

    assert (beyond.code, beyond.detail) == (
        ProblemCode.OVERLOADED,
        "Come back later: the bodies in flight fill the memory set aside for them.",
    )
    assert without_it == (1.0, room - 10)
    assert full == (2.0, room)
    assert shown() == (0.0, 0.0)


@pytest.mark.parametrize(
    ("expect", "written"), [("100-continue", [CONTINUE]), ("100-Continue", [CONTINUE]), ("", []), ("1", [])]
)
async def test_a_client_that_waits_is_told_to_go_on_and_no_other(
    expect: str, written: Iterable[bytes]
) -> None:
    limits, _ = limits_of()
    request = ScriptedRequest(b"abc", expect=expect)

    with reader(limits, request) as body:
        await body.read(3)

    assert request.written == written
    assert request.writer.output_size == 0  # or the answer would be taken for a second one


async def test_a_client_that_waits_is_not_told_to_go_on_where_there_is_no_room() -> None:
    limits, _ = limits_of(max_bodies=0)
    request = ScriptedRequest(b"abc", expect="100-continue")

    error = await problem(limits, request)

    assert error.code is ProblemCode.OVERLOADED
    assert request.written == []


async def test_a_client_that_is_gone_before_it_is_told_to_go_on_gives_its_place_back() -> None:
    limits, shown = limits_of()
    request = ScriptedRequest(b"abc", expect="100-continue")
    request.error_of_write = ConnectionResetError()

    with pytest.raises(ConnectionResetError), reader(limits, request) as body:
        await body.read(3)

    assert shown() == (0.0, 0.0)


def test_the_ports_are_counted_apart() -> None:
    metrics = Metrics()
    phones, operators = (
        BodyLimits(2, 100, 1.0, metrics),
        BodyLimits(2, 100, 1.0, metrics, port="operators"),
    )

    operators.reserve_body()

    shown = [
        metrics.registry.get_sample_value("keyflock_bodies_in_flight", {"port": one.port})
        for one in (phones, operators)
    ]
    assert (shown, phones.in_flight, operators.in_flight) == ([0.0, 1.0], 0, 1)
