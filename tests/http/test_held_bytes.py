"""``max_body_bytes_in_flight`` bounds what is held of bodies: as they arrive, and while they wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from keyflock_server.protocol import calls
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from tests.http.conftest import SdkPort

pytestmark = pytest.mark.fault("D15")

#: ServerRun for two reports of this size, and not for a third.
DELTA_BYTES = 1_000_000
small = pytest.mark.parametrize("limits", [{"max_bytes": 2_500_000}], indirect=True)
REPORT = msgspec.msgpack.encode(Report(delta=bytes(DELTA_BYTES), examples=3))


def held(sdk_port: SdkPort) -> float | None:
    return sdk_port.metrics.registry.get_sample_value("keyflock_body_bytes_in_flight", {"port": "phones"})


async def waiting(sdk_port: SdkPort, reports: int) -> list[asyncio.Task[object]]:
    """So many reports have arrived and wait for their batch."""
    sdk_port.service.gate.clear()
    sending: list[asyncio.Task[object]] = []
    for number in range(reports):
        sending.append(asyncio.create_task(sdk_port.send(calls.REPORT, REPORT)))
        async with asyncio.timeout(120.0):
            while len(sdk_port.service.calls) <= number:  # noqa: ASYNC110 - the other side runs in this loop
                await asyncio.sleep(0)
    return sending


async def test_a_delta_is_a_part_of_its_body_and_no_second_copy(sdk_port: SdkPort) -> None:
    await sdk_port.send(calls.REPORT, REPORT)

    ((_, arguments),) = sdk_port.service.calls
    assert isinstance(arguments, tuple)
    message = arguments[1]
    assert isinstance(message.delta, memoryview)
    assert message.delta.obj == REPORT
    assert message.delta == bytes(DELTA_BYTES)


@small
async def test_a_report_that_waits_for_its_batch_is_held_whole(sdk_port: SdkPort) -> None:
    sending = await waiting(sdk_port, 2)

    while_they_wait = held(sdk_port)
    third = await sdk_port.send(calls.REPORT, REPORT)
    sdk_port.service.gate.set()
    await asyncio.gather(*sending)

    assert while_they_wait == 2 * len(REPORT)
    assert (third.status, third.code()) == (503, ProblemCode.OVERLOADED)
    assert held(sdk_port) == 0.0


@small
async def test_what_is_kept_after_the_answer_takes_its_part_of_the_room(sdk_port: SdkPort) -> None:
    sdk_port.body_limits.held_after_answer = lambda: 2 * len(REPORT)
    refused = await sdk_port.send(calls.REPORT, REPORT)
    sdk_port.body_limits.held_after_answer = lambda: 0
    taken = await sdk_port.send(calls.REPORT, REPORT)

    assert (refused.status, refused.code()) == (503, ProblemCode.OVERLOADED)
    assert taken.status == 200
