"""What an operator asks for and is not there: the refusal says so, and repeats nothing of what was sent."""

from collections.abc import Awaitable, Callable

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness
from tests.unit.coordinator.listed import listed_devices, listed_rounds

from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.operator.populations import RollbackOrder
from keyflock_server.protocol.problems import ApiError

pytestmark = pytest.mark.fault("D1")

TYPED = "what-somebody-typed"
WHY = "a reason"
CALLS: dict[str, Callable[[Coordinator], Awaitable[object]]] = {
    "task": lambda one: one.tasks.get(TaskName(TYPED)),
    "pause_task": lambda one: one.tasks.pause(TaskName(TYPED), audit=AUDIT),
    "resume_task": lambda one: one.tasks.resume(TaskName(TYPED), audit=AUDIT),
    "cancel_task": lambda one: one.tasks.cancel(TaskName(TYPED), audit=AUDIT),
    "rounds": lambda one: listed_rounds(one, TaskName(TYPED)),
    "round": lambda one: one.tasks.round(RoundId(TYPED)),
    "accept_round": lambda one: one.tasks.accept_round(RoundId(TYPED), audit=AUDIT),
    "discard_round": lambda one: one.tasks.discard_round(RoundId(TYPED), audit=AUDIT),
    "devices": lambda one: listed_devices(one, PopulationName(TYPED)),
    "device": lambda one: one.quarantines.device(DeviceId(TYPED)),
    "quarantine_device": lambda one: one.quarantines.quarantine(
        DeviceId(TYPED), QuarantineOrder(reason=WHY), audit=AUDIT
    ),
    "release_device": lambda one: one.quarantines.release(DeviceId(TYPED), audit=AUDIT),
    "revoke_device": lambda one: one.revocations.revoke(DeviceId(TYPED), audit=AUDIT),
    "roll_back": lambda one: one.populations.roll_back(
        PopulationName(TYPED), RollbackOrder(to=0, reason=WHY), audit=AUDIT
    ),
    "preview_cohort": lambda one: one.populations.preview_cohort(PopulationName(TYPED), "tier >= 2"),
}


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS.keys())
async def test_a_name_that_is_not_there_is_not_repeated(
    harness: CoordinatorHarness, ask: Callable[[Coordinator], Awaitable[object]]
) -> None:
    with pytest.raises(ApiError) as refused:
        await ask(harness.coordinator)

    assert TYPED not in refused.value.detail
