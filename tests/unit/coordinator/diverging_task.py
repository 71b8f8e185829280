"""A task whose server steps a hundred times as far as its phones say, and how its rounds are played."""

from dataclasses import dataclass, field

import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.coordinator.events import Silent
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.operator import DecisionOrder, RoundView
from keyflock_server.protocol.problems import ProblemCode, Refused

T = TaskName("t")
FIRST = RoundId("t-1")
ABSURD = 'name = "fedavg"\nlearning_rate = 100'
BECAUSE = DecisionOrder(reason="the rate was a slip of the pen")


@dataclass
class Watching(Silent):
    """Remembers what an operator is told of held rounds."""

    held: list[tuple[str, int, str]] = field(default_factory=list)
    waiting: int = 0

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        self.held.append((task, sequence, reason))

    def rounds_waiting(self, held: int) -> None:
        self.waiting = held


async def cohort(town: Town, size: int = 4) -> list[AssignmentClaims]:
    return [await town.assigned(await town.enrol()) for _ in range(size)]


async def send(town: Town, claims: AssignmentClaims, value: float = 1.0) -> Receipt | ProblemCode:
    try:
        return await town.coordinator.report(claims, report(constant(value), of=claims))
    except Refused as refused:
        return refused.code


async def play(town: Town, value: float = 1.0) -> list[AssignmentClaims]:
    """One round of four phones, closed as far as it may be."""
    claims = await cohort(town)
    for one in claims:
        await send(town, one, value)
    await town.coordinator.tick()
    return claims


async def held_round(town: Town, *, name: str = "t", round_toml: str = "goal = 4") -> RoundView:
    """A task whose first round is held."""
    await town.task(name, round=round_toml, optimizer=ABSURD)
    await play(town)
    view = await town.coordinator.round(RoundId(f"{name}-1"))
    assert view.phase == "held"
    return view


async def refusal(call: object) -> ProblemCode:
    with pytest.raises(Refused) as refused:
        await call  # type: ignore[misc]  # any call of the coordinator
    return refused.value.code
