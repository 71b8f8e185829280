"""What a body may be: every SDK call with every kind of wrong body."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import TYPE_CHECKING

import msgpack
import psutil
import pytest

from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import CALLS, Call
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.http.conftest import SdkPort

#: A head is raw bytes: what is wrong with those is tried in test_personal_calls.py.
WITH_BODY = [call for call in CALLS if call.request is not None]
WITHOUT_BODY = [call for call in CALLS if not call.max_body_bytes]

with_body = pytest.mark.parametrize("call", WITH_BODY, ids=lambda call: call.name)
without_body = pytest.mark.parametrize("call", WITHOUT_BODY, ids=lambda call: call.name)


def nested(levels: int) -> bytes:
    return b"\x81\xa1x" + b"\x91" * levels + b"\x00"


def bomb(size_bytes: int) -> bytes:
    """Empty arrays in arrays: a byte each here, sixty-four each in a decoder that builds them."""
    thousand = b"\xdc\x03\xe8" + b"\x90" * 1000
    rows = size_bytes // len(thousand)
    return b"\x81\xa1x\xdd" + rows.to_bytes(4, "big") + thousand * rows


@with_body
@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "application/octet-stream", "text/plain; charset=utf-8", "msgpack"],
)
async def test_a_body_of_another_type_is_not_taken(
    sdk_port: SdkPort, call: Call, content_type: str | None
) -> None:
    answer = await sdk_port.send(call, Content_Type=content_type)

    assert (answer.status, answer.code()) == (415, ProblemCode.UNSUPPORTED_MEDIA_TYPE)
    assert "application/msgpack" in answer.problem().detail


@with_body
async def test_parameters_of_the_type_are_ignored(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Content_Type="Application/MsgPack; charset=binary")

    assert answer.status == 200


@with_body
async def test_a_compressed_body_is_not_taken_and_never_inflated(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, gzip.compress(sdk_port.good_body(call)), Content_Encoding="gzip")

    assert (answer.status, answer.code()) == (415, ProblemCode.UNSUPPORTED_MEDIA_TYPE)


@with_body
@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("empty", b""),
        ("garbage", bytes(range(128, 256))),
        ("not a map", b"\x93\x01\x02\x03"),
        ("json", b'{"protocol": 1}'),
        ("no field", b"\x80"),
        ("nested", nested(60_000)),
        ("length lie", b"\x81\xa1x\xdd\xff\xff\xff\xff"),
        ("bomb", bomb(60_000)),
    ],
)
async def test_a_malformed_body_is_refused(sdk_port: SdkPort, call: Call, case: str, body: bytes) -> None:
    answer = await sdk_port.send(call, body)

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY), case
    assert sdk_port.service.calls == []


@with_body
async def test_a_truncated_body_is_refused_at_every_length(sdk_port: SdkPort, call: Call) -> None:
    whole = sdk_port.good_body(call)

    for length in range(len(whole)):
        answer = await sdk_port.send(call, whole[:length])
        assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert sdk_port.service.calls == []


@with_body
async def test_bytes_after_the_message_are_refused(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, sdk_port.good_body(call) + b"\x00")

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)


@with_body
async def test_unknown_fields_are_ignored(sdk_port: SdkPort, call: Call) -> None:
    fields = msgpack.unpackb(sdk_port.good_body(call))

    answer = await sdk_port.send(
        call, msgpack.packb({**fields, "since_version": 9, "more": {"a": [b"\x00"]}})
    )

    assert answer.status == 200
    assert [name for name, _ in sdk_port.service.calls] == [call.name]


@pytest.mark.parametrize("call", [calls.ENROL, calls.CHECK_IN], ids=lambda call: call.name)
@pytest.mark.parametrize("protocol", [0, 2, 99])
async def test_another_protocol_is_told_to_upgrade_whatever_else_it_says(
    sdk_port: SdkPort, call: Call, protocol: int
) -> None:
    answer = await sdk_port.send(
        call, msgpack.packb({"protocol": protocol, "locale": ["of", "the", "future"]})
    )

    assert (answer.status, answer.code()) == (426, ProblemCode.PROTOCOL_UNSUPPORTED)
    assert answer.headers["Upgrade"] == "keyflock/1"
    assert f"speaks {protocol}" in answer.problem().detail


@pytest.mark.parametrize("call", [calls.ENROL, calls.CHECK_IN], ids=lambda call: call.name)
async def test_another_protocol_is_told_to_upgrade_even_if_its_message_could_be_read(
    sdk_port: SdkPort, call: Call
) -> None:
    fields = msgpack.unpackb(sdk_port.good_body(call))

    answer = await sdk_port.send(call, msgpack.packb({**fields, "protocol": 2}))

    assert (answer.status, answer.code()) == (426, ProblemCode.PROTOCOL_UNSUPPORTED)
    assert sdk_port.service.calls == []


@with_body
async def test_a_body_of_exactly_the_limit_is_read_and_a_byte_more_is_not(
    sdk_port: SdkPort, call: Call
) -> None:
    at_limit = await sdk_port.send(call, bytes(call.max_body_bytes))
    beyond = await sdk_port.send(call, bytes(call.max_body_bytes + 1))

    assert at_limit.code() is ProblemCode.MALFORMED_BODY
    assert (beyond.status, beyond.code()) == (413, ProblemCode.BODY_TOO_LARGE)
    assert str(call.max_body_bytes) in beyond.problem().detail


@with_body
async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(sdk_port: SdkPort, call: Call) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(call.max_body_bytes // 65_536 + 3):
            yield bytes(65_536)

    answer = await sdk_port.send(call, endless())

    assert (answer.status, answer.code()) == (413, ProblemCode.BODY_TOO_LARGE)


@without_body
async def test_a_call_that_takes_no_body_refuses_one(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, b"\x80", Content_Type="application/msgpack")

    assert (answer.status, answer.code()) == (413, ProblemCode.BODY_TOO_LARGE)
    assert sdk_port.service.calls == []


@pytest.mark.parametrize("limits", [{"timeout_s": 0.05}], indirect=True)
@with_body
async def test_a_body_that_trickles_is_given_up(sdk_port: SdkPort, call: Call) -> None:
    never = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        yield b"\x81"
        await never.wait()

    answer = await sdk_port.send(call, trickle())

    assert (answer.status, answer.code()) == (408, ProblemCode.BODY_TIMEOUT)
    assert answer.problem().retry is not None


async def test_a_body_that_breaks_off_leaves_nothing_behind(sdk_port: SdkPort) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in sdk_port.headers(calls.CHECK_IN).items())
    host, port = sdk_port.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))

    writer.write(f"POST /v1/check-ins HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 50\r\n\r\n\x81".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    noticed = 'keyflock_problems_total{call="check_in",code="malformed_body"} 1.0'
    async with asyncio.timeout(120.0):
        while noticed not in (await sdk_port.request("GET", "/metrics")).body.decode():
            pass
    assert sdk_port.metrics.registry.get_sample_value("keyflock_bodies_in_flight", {"port": "phones"}) == 0.0
    assert sdk_port.service.calls == []


async def test_a_client_that_waits_to_be_asked_is_refused_before_it_sends(sdk_port: SdkPort) -> None:
    host, port = sdk_port.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(
        b"PUT /v1/assignments/a-1/report HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/msgpack\r\nContent-Length: 1000000\r\n\r\n"
    )
    status = await reader.readline()
    writer.close()

    assert status == b"HTTP/1.1 401 Unauthorized\r\n"


async def test_a_client_that_waits_to_be_asked_is_asked_once_it_is_admitted(sdk_port: SdkPort) -> None:
    headers = {**sdk_port.headers(calls.REPORT), "Expect": "100-continue"}

    answer = await sdk_port.request(
        "PUT", "/v1/assignments/a-1/report", sdk_port.good_body(calls.REPORT), headers
    )

    assert answer.status == 200


async def test_a_large_bomb_neither_blocks_the_loop_nor_takes_memory(sdk_port: SdkPort) -> None:
    body = bomb(calls.REPORT.max_body_bytes - 65_536)
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    longest_s = 0.0

    async def watch(sending: asyncio.Task[object]) -> None:
        nonlocal longest_s
        while not sending.done():
            started = time.perf_counter()
            assert (await sdk_port.request("GET", "/healthz")).status == 200
            longest_s = max(longest_s, time.perf_counter() - started)

    for _ in range(3):
        sending = asyncio.create_task(sdk_port.send(calls.REPORT, body))
        await watch(sending)
        assert (await sending).code() is ProblemCode.MALFORMED_BODY

    # Built as objects, one such body would take a gigabyte and seven seconds. Both ends of the socket live in
    # this process, so a few copies of the body (16 MB) are here at once.
    assert process.memory_info().rss - before_bytes < 200_000_000
    assert longest_s < 2.0
