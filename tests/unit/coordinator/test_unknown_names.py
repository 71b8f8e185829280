"""What an operator asks for and is not there: the refusal says so, and repeats nothing of what was sent."""

from collections.abc import Awaitable, Callable

import pytest
from tests.unit.coordinator.town import Town

from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.operator import DecisionOrder, QuarantineOrder, RollbackOrder
from keyflock_server.protocol.problems import Refused

pytestmark = pytest.mark.fault("D1")

TYPED = "what-somebody-typed"
WHY = "a reason"
CALLS: dict[str, Callable[[Coordinator], Awaitable[object]]] = {
    "task": lambda one: one.task(TaskName(TYPED)),
    "pause_task": lambda one: one.pause_task(TaskName(TYPED)),
    "resume_task": lambda one: one.resume_task(TaskName(TYPED)),
    "cancel_task": lambda one: one.cancel_task(TaskName(TYPED)),
    "rounds": lambda one: one.rounds(TaskName(TYPED)),
    "round": lambda one: one.round(RoundId(TYPED)),
    "accept_round": lambda one: one.accept_round(RoundId(TYPED), DecisionOrder(reason=WHY)),
    "discard_round": lambda one: one.discard_round(RoundId(TYPED), DecisionOrder(reason=WHY)),
    "devices": lambda one: one.devices(PopulationName(TYPED)),
    "device": lambda one: one.device(DeviceId(TYPED)),
    "quarantine_device": lambda one: one.quarantine_device(DeviceId(TYPED), QuarantineOrder(reason=WHY)),
    "release_device": lambda one: one.release_device(DeviceId(TYPED)),
    "revoke_device": lambda one: one.revoke_device(DeviceId(TYPED)),
    "roll_back": lambda one: one.roll_back(PopulationName(TYPED), RollbackOrder(to=0, reason=WHY)),
    "preview_cohort": lambda one: one.preview_cohort(PopulationName(TYPED), "tier >= 2"),
}


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS.keys())
async def test_a_name_that_is_not_there_is_not_repeated(
    town: Town, ask: Callable[[Coordinator], Awaitable[object]]
) -> None:
    with pytest.raises(Refused) as refused:
        await ask(town.coordinator)

    assert TYPED not in refused.value.detail
