"""However reports arrive, no flush is too small, and a round that fills is committed whole."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.decisions import Due, due, may_flush
from keyflock_server.rounds.round import Assigned, Counted, Round, advance
from keyflock_server.rounds.task import parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def round_of(goal: int, least: int) -> Round:
    spec = parse_task(
        f'[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = {goal}\nmin_flush_clients = {least}\n'
        f"minimum = {goal}\n"
    )
    current = Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=PopulationName("en"),
        sequence=1,
        base_version=ModelVersion(0),
        spec=spec,
        opened_at=NOW,
        deadline_at=NOW + timedelta(seconds=600),
    )
    for _ in range(goal):
        current = advance(current, Assigned(), NOW)
    return current


@given(goal=st.integers(1, 60), least=st.integers(1, 10), data=st.data())
def test_the_flush_plan_holds(goal: int, least: int, data: st.DataObject) -> None:
    least = min(least, goal)
    current, pending, arrived, flushes = round_of(goal, least), 0, 0, []

    while arrived < goal:
        arriving = data.draw(st.integers(1, goal - arrived), label="arriving")
        arrived, pending = arrived + arriving, pending + arriving
        if may_flush(current, pending):
            flushes.append(pending)
            current, pending = advance(current, Counted(pending, float(pending)), NOW), 0

    assert pending == 0
    assert sum(flushes) == goal
    assert min(flushes) >= least
    assert due(current, 0, NOW) is Due.CLOSE
