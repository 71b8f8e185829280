"""A group is decided as its operations would be one by one, and what it changes leads to the same rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.test_group_writer_contract import BUFFER, round_of
from tests.contract.test_store_contract import (
    NOW,
    POPULATION,
    SPEC,
    assignment,
    counted,
    device,
    partial,
)
from tests.memory_store.group_writer import MemoryGroupWriter
from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.storage.errors import AssignmentsNotOpen, SlotRefused
from keyflock_server.storage.group_decisions import GroupDecisions
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    OperationOutcome,
    TakeSlot,
)
from keyflock_server.storage.records import AssignmentState, RoundRecord

K = TypeVar("K")
V = TypeVar("V")
ENROLLED = ("a", "b")
NEW = AddDevice(device("new"))
GONE = AddDevice(replace(device("new"), population=PopulationName("gone")))
names = st.sampled_from([*ENROLLED, *ENROLLED, "nobody", "new"])
rounds = st.sampled_from(["t-1", "t-1", "u-1", "t-9"])
slots = st.builds(assignment, names, rounds)
keys = st.sampled_from([None, None, "first", "second"])


@st.composite
def flushes(draw: st.DrawFn) -> CountReports:
    reported = draw(st.sets(names, min_size=1, max_size=2))
    replica = draw(st.sampled_from(["r1", "r2"]))
    row = partial(len(reported), float(len(reported)), draw(st.sampled_from(["first", "second"])), replica)
    return CountReports(row, [counted(name) for name in sorted(reported)], NOW, draw(keys))


operations: st.SearchStrategy[Operation] = st.one_of(
    slots.map(TakeSlot),
    slots.map(TakeSlot),
    st.builds(GiveBack, slots, st.just("-v[!"), st.just(NOW)),
    flushes(),
    st.just(GONE),
)


def rows() -> MemoryRows:
    """A round of a synchronous task, a buffer of an asynchronous one, and four devices."""
    found = MemoryRows()
    found.populations[POPULATION.name] = POPULATION
    for spec, round_id in ((SPEC, "t-1"), (BUFFER, "u-1")):
        record = round_of(spec, round_id)
        found.rounds[record.round.id] = record
    for number, name in enumerate(ENROLLED):
        found.devices[DeviceId(name)] = replace(device(name), silences=number)
    return found


def commit(writer: MemoryGroupWriter, group: list[Operation]) -> list[OperationOutcome]:
    """Commit a group without an event loop: the fake waits for nothing."""
    with pytest.raises(StopIteration) as done:
        writer.commit(group).send(None)
    outcomes: list[OperationOutcome] = done.value.value
    return outcomes


def told(outcome: OperationOutcome) -> object:
    """What an operation's caller learns."""
    match outcome:
        case SlotRefused():
            return SlotRefused, outcome.facts
        case AssignmentsNotOpen():
            return AssignmentsNotOpen, outcome.missing, set(outcome.rows)
        case Exception():
            return type(outcome)
        case _:
            return outcome


def changed(before: Mapping[K, object], after: Mapping[K, V]) -> dict[K, V]:
    return {key: row for key, row in after.items() if row != before.get(key)}


@settings(max_examples=200)
@given(
    before=st.lists(operations, max_size=8),
    group=st.lists(operations, max_size=8),
    # Only once: that a device is there already is the database's to find.
    new_at=st.integers(0, 8),
    forgotten=st.sampled_from(["a", "nobody", "nobody"]),
)
def test_a_group_is_decided_as_its_operations_one_by_one(
    before: list[Operation], group: list[Operation], new_at: int, forgotten: str
) -> None:
    known = rows()
    writer = MemoryGroupWriter(known)
    commit(writer, before)
    known.devices.pop(DeviceId(forgotten), None)
    group.insert(new_at, NEW)
    rounds, assignments, partials = dict(known.rounds), dict(known.assignments), dict(known.partials)
    decisions = GroupDecisions(
        rounds,
        assignments,
        {id_: row.facts for id_, row in known.devices.items()},
        known.populations,
        {key: row.key for key, row in partials.items()},
    )

    decided = decisions.outcomes(group)
    one_by_one = commit(writer, group)

    assert [told(one) for one in decided] == [told(one) for one in one_by_one]
    changes = decisions.changes
    assert {id_: after for id_, (_, after) in changes.rounds.items()} == changed(rounds, known.rounds)
    assert all(first == rounds[id_] for id_, (first, _) in changes.rounds.items())
    assert {(one.round_id, one.device) for one in changes.assigned} == known.assignments.keys() - assignments
    moved = changed(assignments, known.assignments)
    assert {key for key, _ in changes.failed} == {
        key for key, row in moved.items() if row.state is AssignmentState.FAILED
    }
    assert changes.counted == [
        one
        for one, outcome in zip(group, one_by_one, strict=True)
        if isinstance(one, CountReports) and isinstance(outcome, RoundRecord)
    ]
    assert {key: row for key, (row, _) in changes.partials.items()} == changed(partials, known.partials)
    assert all(has_row == (key in partials) for key, (_, has_row) in changes.partials.items())
