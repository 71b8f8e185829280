"""A task whose server steps a hundred times too far, and the rounds that the tests play with it."""

from dataclasses import dataclass, field, replace

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_server.coordinator.events import NullObserver
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.problems import ApiError, ProblemCode

T = TaskName("t")
FIRST = RoundId("t-1")
ABSURD = 'name = "fedavg"\nlearning_rate = 100'
BECAUSE = replace(AUDIT, reason="the rate was a slip of the pen")


@dataclass
class HeldRoundRecorder(NullObserver):
    """Records the events about held rounds."""

    held: list[tuple[str, int, str]] = field(default_factory=list)
    waiting: int = 0

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        self.held.append((task, sequence, reason))

    def rounds_waiting(self, held: int) -> None:
        self.waiting = held


async def cohort(harness: CoordinatorHarness, size: int = 4) -> list[AssignmentClaims]:
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(
    harness: CoordinatorHarness, claims: AssignmentClaims, value: float = 1.0
) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


async def play(harness: CoordinatorHarness, value: float = 1.0) -> list[AssignmentClaims]:
    """Play one round of four phones, and close it as far as possible."""
    claims = await cohort(harness)
    for one in claims:
        await send(harness, one, value)
    await harness.coordinator.tick()
    return claims


async def held_round(
    harness: CoordinatorHarness, *, name: str = "t", round_toml: str = "goal = 4"
) -> RoundView:
    """Create a task whose first round is held."""
    await harness.task(name, round=round_toml, optimizer=ABSURD)
    await play(harness)
    view = await harness.coordinator.tasks.round(RoundId(f"{name}-1"))
    assert view.phase == "held"
    return view


async def refusal(call: object) -> ProblemCode:
    with pytest.raises(ApiError) as refused:
        await call  # type: ignore[misc]  # any call of the coordinator
    return refused.value.code
