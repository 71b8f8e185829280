"""Slow-loris: bodies that trickle over hundreds of connections at once. Everybody else is served."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.http.conftest import limits, sdk_port

from keyflock_server.protocol import calls

if TYPE_CHECKING:
    from tests.http.conftest import SdkPort

__all__ = ["limits", "sdk_port"]  # pytest finds them here
LORISES = 200


async def trickle(sdk_port: SdkPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has promised a report and sent a byte of it."""
    host, port = sdk_port.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    given = {**sdk_port.headers(calls.REPORT), "Host": "x", "Content-Length": "50000"}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    writer.write(f"PUT /v1/assignments/a-1/report HTTP/1.1\r\n{head}\r\n".encode() + b"\x81")
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("limits", [{"max_bodies": 2 * LORISES, "timeout_s": 3.0}], indirect=True)
async def test_two_hundred_slow_uploads_keep_nobody_out_and_are_given_up_in_time(sdk_port: SdkPort) -> None:
    lorises = [await trickle(sdk_port) for _ in range(LORISES)]
    started = time.perf_counter()

    served = [(await sdk_port.send(calls.CHECK_IN)).status for _ in range(20)]
    reported = (await sdk_port.send(calls.REPORT)).status
    took_s = time.perf_counter() - started
    answers = [await reader.read() for reader, _ in lorises]

    assert served == [200] * 20
    assert reported == 200
    assert took_s < 20.0  # seconds; unhindered it is a tenth of one
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}
    assert sdk_port.metrics.registry.get_sample_value("keyflock_bodies_in_flight", {"port": "phones"}) == 0.0
    for _, writer in lorises:
        writer.close()


@pytest.mark.parametrize("limits", [{"max_bodies": 8, "timeout_s": 3.0}], indirect=True)
async def test_when_slow_uploads_take_every_place_the_others_hear_when_to_come_back(
    sdk_port: SdkPort,
) -> None:
    lorises = [await trickle(sdk_port) for _ in range(8)]
    async with asyncio.timeout(60.0):
        while (await sdk_port.send(calls.REPORT)).status != 503:
            pass
        # The places come free by themselves, and calls without a body never needed one.
        model = (await sdk_port.send(calls.MODEL)).status
        while (await sdk_port.send(calls.REPORT)).status != 200:
            pass

    assert model == 200
    for _, writer in lorises:
        writer.close()
