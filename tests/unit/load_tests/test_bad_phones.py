"""A bad phone's act is expected to come to certain ends; any other is a surprise and breaks the run."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from keyflock_compression import DEFAULT_SPEC, NonFinite, decode, encode
from keyflock_load_tests.bad_phones import ACTS, BadPhone, not_a_number
from keyflock_load_tests.connection import Connection, trickle
from keyflock_load_tests.measured_calls import MeasuredCalls
from keyflock_load_tests.measurement import BAD_PHONE, Measurements
from keyflock_load_tests.payload import synthetic_delta
from keyflock_load_tests.phone_script import PhoneState
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol.calls import Request, Response

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3))
RAW = ("garbage_bytes", "garbage_body", "oversize", "half_open", "slow_head", "half_a_body")


class CarelessServer:
    """Answers every call with 200, whatever it is."""

    async def send(self, _request: Request) -> Response:
        return Response(200, {}, b"")

    async def send_and_hang_up(self, request: Request) -> None:
        await self.send(request)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Connection]:
        yield self


async def acted(name: str, answer: bytes) -> Measurements:
    """Let a bad phone do its act against a port that answers each connection with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        with contextlib.suppress(OSError):
            # Bytes that nobody has read would take the answer with them when the connection closes.
            while answer and await reader.read(65_536):
                pass
        writer.close()

    measurements = Measurements()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        bad = BadPhone(
            PhoneState("a real token", 32),
            f"http://127.0.0.1:{port}",
            60.0,
            lambda _assignment: b"delta",
            CarelessServer().opened,
            MeasuredCalls(lambda: 0.0, measurements, 60.0, suffix=BAD_PHONE),
            random.Random(1),
        )
        await bad.run(name, 0.0)
    return measurements


@pytest.mark.parametrize("name", RAW)
async def test_a_server_that_takes_what_it_must_refuse_is_found_out(name: str) -> None:
    measurements = await acted(name, b"HTTP/1.1 200 OK\r\n\r\n")

    assert measurements.hostile_surprises == {f"{name}: 200": 1}
    assert measurements.error_share() == 0.0


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("garbage_bytes", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("garbage_bytes", b""),
        ("garbage_body", b"HTTP/1.1 422 Unprocessable\r\n\r\n"),
        ("oversize", b"HTTP/1.1 413 Too Large\r\n\r\n"),
        ("half_open", b"HTTP/1.1 408 Request Timeout\r\n\r\n"),
    ],
)
async def test_a_server_that_refuses_for_the_right_reason_is_in_order(name: str, answer: bytes) -> None:
    measurements = await acted(name, answer)

    assert measurements.hostile_surprises == {}
    assert [sample.outcome for sample in measurements.samples] == ["ok"]


async def test_an_answer_that_says_nothing_of_the_act_is_no_proof_that_it_was_refused() -> None:
    measurements = await acted("garbage_body", b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    assert measurements.hostile_surprises == {}
    assert [sample.outcome for sample in measurements.samples] == ["503"]


async def test_a_token_that_nobody_signed_must_not_be_taken() -> None:
    measurements = await acted("wrong_token", b"")

    assert measurements.hostile_surprises == {"wrong_token: 200": 1}


def test_every_way_to_be_bad_has_ends_that_are_expected() -> None:
    assert set(RAW) < set(ACTS)
    assert all(act.expected for act in ACTS.values())
    assert not any("200" in act.expected for act in ACTS.values())


def test_a_delta_that_is_no_number_is_an_intact_container() -> None:
    container = encode(synthetic_delta(LAYOUT, np.random.default_rng(1)), LAYOUT, DEFAULT_SPEC, seed=0)

    assert decode(container, LAYOUT, spec=DEFAULT_SPEC).size == LAYOUT.size
    with pytest.raises(NonFinite):
        decode(not_a_number(container), LAYOUT, spec=DEFAULT_SPEC)


async def test_an_upload_trickles_whole_and_in_pieces() -> None:
    pieces = [piece async for piece in trickle(bytes(range(250)), 1_000_000.0)]
    slow = trickle(bytes(10), 10.0)

    assert b"".join(pieces) == bytes(range(250))
    assert len(await anext(slow)) == 2
    await slow.aclose()  # type: ignore[attr-defined]  # it is a generator
