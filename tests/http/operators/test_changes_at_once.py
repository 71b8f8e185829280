"""Two operators change one thing on the same ETag at once: one succeeds, and the other is told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from tests.http.operators.real_operators import RealOperators
from tests.unit.coordinator.evaluate_task import publish_version
from tests.unit.coordinator.harness import CoordinatorHarness

from keyflock_server.protocol.operator import devices, populations, releases, tasks, versions
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.table import OPERATOR_CALLS

MANUAL = {"policy": {"promotion": "manual"}}
GATED = {"policy": {"promotion": "gate"}}
#: What is done before, the call that two make at once, and where its ETag is read.
CASES: Mapping[AnyCall, tuple[tuple[tuple[AnyCall, dict[str, Any]], ...], dict[str, Any], AnyCall]] = {
    tasks.CHANGE_TASK: ((), {"goal": 9}, tasks.TASK),
    tasks.PAUSE_TASK: ((), {}, tasks.TASK),
    tasks.RESUME_TASK: (((tasks.PAUSE_TASK, {}),), {}, tasks.TASK),
    tasks.CANCEL_TASK: ((), {}, tasks.TASK),
    tasks.ARCHIVE_TASK: (((tasks.CANCEL_TASK, {}),), {}, tasks.TASK),
    tasks.UNARCHIVE_TASK: (((tasks.CANCEL_TASK, {}), (tasks.ARCHIVE_TASK, {})), {}, tasks.TASK),
    populations.ARCHIVE_POPULATION: (((tasks.CANCEL_TASK, {}),), {}, releases.RELEASE_POLICY),
    populations.UNARCHIVE_POPULATION: (
        ((tasks.CANCEL_TASK, {}), (populations.ARCHIVE_POPULATION, {})),
        {},
        releases.RELEASE_POLICY,
    ),
    releases.SET_RELEASE_POLICY: ((), GATED, releases.RELEASE_POLICY),
    releases.START_RELEASE: ((), {"candidate": 1, "percent": 10}, releases.RELEASE),
    releases.PROMOTE_RELEASE: ((), {"version": 1, "is_forced": True}, releases.RELEASE),
    releases.HOLD_RELEASE: (
        ((releases.START_RELEASE, {"candidate": 1, "percent": 10}),),
        {},
        releases.RELEASE,
    ),
    releases.ROLL_BACK_RELEASE: (
        ((releases.START_RELEASE, {"candidate": 1, "percent": 10}),),
        {},
        releases.RELEASE,
    ),
    versions.PIN_VERSION: ((), {}, versions.VERSION),
    versions.UNPIN_VERSION: (((versions.PIN_VERSION, {}),), {}, versions.VERSION),
    devices.QUARANTINE_DEVICE: ((), {"days": 3}, devices.DEVICE),
    devices.RELEASE_DEVICE: (((devices.QUARANTINE_DEVICE, {"days": 3}),), {}, devices.DEVICE),
    devices.REVOKE_DEVICE: ((), {}, devices.DEVICE),
}


@pytest.fixture
async def harness() -> AsyncIterator[CoordinatorHarness]:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population()
    await publish_version(harness)
    await harness.task("u")
    yield harness
    await harness.coordinator.stop()


def test_every_call_that_takes_a_condition_is_tried() -> None:
    assert {call.name for call in OPERATOR_CALLS if call.takes_if_match} == {
        *(call.name for call in CASES),
        devices.FORGET_DEVICE.name,
    }


@pytest.mark.parametrize("call", CASES, ids=lambda call: call.name)
async def test_one_of_two_succeeds(harness: CoordinatorHarness, call: AnyCall) -> None:
    before, order, reading = CASES[call]
    operators, phone = RealOperators(harness), await harness.enrol()
    where: dict[str, Any] = {"task": "u", "version": 1, "device": phone.device}
    for earlier, its_order in before:
        assert (await operators.call(earlier, its_order, **where)).status == 200
    etag = (await operators.call(reading, **where)).etag

    operators.let_two_read_their_revisions_before_either_goes_on()
    answers = await asyncio.gather(*(operators.call(call, order, if_match=etag, **where) for _ in range(2)))

    assert sorted((one.status, one.code) for one in answers) == [(200, ""), (412, "precondition_failed")]
    assert (await operators.call(reading, **where)).etag != etag


async def test_a_device_that_changed_meanwhile_is_not_forgotten(harness: CoordinatorHarness) -> None:
    operators, phone = RealOperators(harness), await harness.enrol()
    etag = (await operators.call(devices.DEVICE, device=phone.device)).etag

    operators.let_two_read_their_revisions_before_either_goes_on()
    revoked, forgotten = await asyncio.gather(
        operators.call(devices.REVOKE_DEVICE, {}, if_match=etag, device=phone.device),
        operators.call(devices.FORGET_DEVICE, {}, if_match=etag, device=phone.device),
    )

    assert sorted((revoked.status, forgotten.status)) in ([200, 404], [200, 412])


async def test_without_a_condition_the_later_change_is_made_of_what_is_there(
    harness: CoordinatorHarness,
) -> None:
    operators = RealOperators(harness)

    answers = await asyncio.gather(
        *(operators.call(tasks.CHANGE_TASK, {"deadline_s": one}, task="u") for one in (500.0, 700.0))
    )
    whatever = await operators.call(tasks.PAUSE_TASK, {}, if_match="*", task="u")

    assert [one.status for one in (*answers, whatever)] == [200, 200, 200]
