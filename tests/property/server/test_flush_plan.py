"""However reports arrive, no flush is too small, and a round that fills is committed whole."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.decisions import Due, Pending, due, is_goal_met, may_flush
from keyflock_server.rounds.round import Counted, Round, SlotTaken, advance
from keyflock_server.rounds.task_validation import parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def round_of(goal: int, min_clients: int) -> Round:
    spec = parse_task(
        f'[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = {goal}\nmin_flush_clients = {min_clients}\n'
        "unsafe_single_flush = true\n"
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
        current = advance(current, SlotTaken(), NOW)
    return current


@given(goal=st.integers(1, 60), min_clients=st.integers(1, 10), data=st.data())
def test_the_flush_plan_holds(goal: int, min_clients: int, data: st.DataObject) -> None:
    min_clients = min(min_clients, goal)
    current, pending, arrived, flushes = round_of(goal, min_clients), 0, 0, []

    while arrived < goal:
        arriving = data.draw(st.integers(1, goal - arrived), label="arriving")
        arrived, pending = arrived + arriving, pending + arriving
        if may_flush(current, Pending(pending, pending)):
            flushes.append(pending)
            current, pending = advance(current, Counted(pending, float(pending)), NOW), 0

    assert pending == 0
    assert sum(flushes) == goal
    assert min(flushes) >= min_clients
    assert due(current, Pending(0, 0), NOW) is Due.CLOSE


@given(goal=st.integers(4, 40), min_clients=st.integers(1, 8), data=st.data())
@pytest.mark.fault("D3")
def test_however_many_reports_are_not_distinct_no_flush_has_too_few_that_are(
    goal: int, min_clients: int, data: st.DataObject
) -> None:
    min_clients = min(min_clients, goal)
    current, pending, flushes = round_of(goal, min_clients), Pending(0, 0), []

    for is_distinct in data.draw(st.lists(st.booleans(), max_size=goal), label="distinct"):
        assert not is_goal_met(current, pending)
        pending = Pending(pending.reports + 1, pending.distinct + is_distinct)
        if may_flush(current, pending):
            flushes.append(pending)
            current = advance(current, Counted(pending.reports, float(pending.reports)), NOW)
            pending = Pending(0, 0)

    assert all(one.distinct >= min_clients for one in flushes)
    # What cannot be flushed by the deadline counts for nothing: the round ends without it.
    if due(current, pending, NOW + timedelta(seconds=601)) is Due.CLOSE:
        assert pending.distinct >= min_clients or current.reports >= current.spec.round.minimum_reports
