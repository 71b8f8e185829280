"""Groups of operations: each has the outcome that it would have alone, and what succeeds is one commit."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import (
    NOW,
    POPULATION,
    ROUND,
    SPEC,
    T1,
    TASK,
    VERSION,
    assignment,
    counted,
    device,
    partial,
)

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import CloseRequested
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.errors import (
    AlreadyExists,
    AssignmentsNotOpen,
    PartialSuperseded,
    PopulationGone,
    SlotRefused,
    StorageDamaged,
    StorageUnavailable,
    Superseded,
    UnreadableRow,
)
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    TakeSlot,
)
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import AssignmentState, RoundRecord
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.sql.transactions import ThreadTransactions
from keyflock_server.storage.tables import rounds

U1 = RoundId("u-1")
BUFFER = parse_task(
    """
    [task]
    name = "u"
    population = "en"
    [round]
    mode = "async"
    goal = 4
    [eligibility]
    min_separation_s = 60.0
    """
)
#: 4 reports wanted, and 0.3 more devices.
SLOTS = 6


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store with a round of a synchronous task, a buffer of an asynchronous one, and ten devices."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    for spec, round_id in ((SPEC, "t-1"), (BUFFER, "u-1")):
        await opened.tasks.add(replace(TASK, spec=spec), audit=AUDIT)
        await opened.rounds.add(round_of(spec, round_id))
    for name in "abcdefghij":
        await add_device(opened, device(name))
    yield opened
    await opened.close()


def round_of(spec: TaskSpec, round_id: str) -> RoundRecord:
    mine = replace(ROUND.round, id=RoundId(round_id), task=TaskName(spec.task.name), spec=spec)
    return RoundRecord(round=mine)


def slot(of: str, round_id: str = "t-1") -> TakeSlot:
    return TakeSlot(assignment(of, round_id))


def flush(*of: str, key: str = "sum", replaces: str | None = None) -> CountReports:
    return CountReports(partial(len(of), float(len(of)), key), [counted(name) for name in of], NOW, replaces)


async def commit(store: RecordStore, *group: Operation) -> list[object]:
    """Commit a group; return for each operation its result, or the class of its refusal."""
    outcomes = await store.group_writer.commit(group)
    return [type(one) if isinstance(one, Exception) else one for one in outcomes]


async def round_row(store: RecordStore, round_id: RoundId = T1) -> RoundRecord:
    found = await store.rounds.get(round_id)
    assert found is not None
    return found


async def states(store: RecordStore, round_id: RoundId = T1) -> dict[str, AssignmentState]:
    return {row.device: row.state for row in await store.assignments.list_by_round(round_id)}


async def test_operations_of_every_kind_are_committed_together(store: RecordStore) -> None:
    for name in "abc":
        await take_slot(store, assignment(name))

    outcomes = await commit(
        store,
        AddDevice(device("new")),
        slot("new"),
        GiveBack(assignment("a"), "-v[!", NOW),
        flush("b", "c"),
    )

    after = await round_row(store)
    counts = after.round.assigned, after.round.failed, after.round.counted, after.round.weight
    assert outcomes[0] is None
    assert outcomes[3] == after
    assert counts == (4, 1, 2, 2.0)
    assert await states(store) == {
        "a": AssignmentState.FAILED,
        "b": AssignmentState.COUNTED,
        "c": AssignmentState.COUNTED,
        "new": AssignmentState.ASSIGNED,
    }
    assert await store.devices.get(DeviceId("new")) == device("new")
    assert [row.key for row in await store.rounds.partials(T1)] == ["sum"]
    contributed = await store.devices.get(DeviceId("b"))
    assert contributed is not None
    assert contributed.last_contributed_at == NOW


async def test_each_operation_gets_the_round_as_it_leaves_it(store: RecordStore) -> None:
    outcomes = await commit(store, slot("a"), slot("b"), GiveBack(assignment("a"), "-v[!", NOW), slot("c"))

    rounds = [one.round for one in outcomes if isinstance(one, RoundRecord)]
    assert [(one.assigned, one.failed) for one in rounds] == [(1, 0), (2, 0), (2, 1), (3, 1)]


async def test_a_refused_operation_does_not_keep_the_others_from_being_written(store: RecordStore) -> None:
    for name in "abc":
        await take_slot(store, assignment(name))
    gone = replace(device("stranger"), population=PopulationName("gone"))

    outcomes = await commit(
        store,
        slot("nobody"),
        slot("a"),
        AddDevice(gone),
        flush("a", "d"),
        flush("a", "b", replaces="another"),
        GiveBack(assignment("d"), "-v[!", NOW),
        slot("d", "t-9"),
        slot("d"),
        flush("c", "b"),
        GiveBack(assignment("b"), "-v[!", NOW),
        GiveBack(assignment("d", "t-9"), "-v[!", NOW),
    )

    assert outcomes[:7] == [
        SlotRefused,
        AlreadyExists,
        PopulationGone,
        AssignmentsNotOpen,
        PartialSuperseded,
        Superseded,
        Superseded,
    ]
    assert outcomes[8] == await round_row(store)
    assert outcomes[9:] == [Superseded, Superseded]
    assert await states(store) == {
        "a": AssignmentState.ASSIGNED,
        "b": AssignmentState.COUNTED,
        "c": AssignmentState.COUNTED,
        "d": AssignmentState.ASSIGNED,
    }
    assert await store.devices.get(DeviceId("stranger")) is None
    assert (await round_row(store)).round.assigned == 4


async def test_a_refused_flush_names_the_reports_that_are_not_open(store: RecordStore) -> None:
    await take_slot(store, assignment("a"))
    await take_slot(store, assignment("b"))

    _, refused = await store.group_writer.commit([GiveBack(assignment("a"), "-v[!", NOW), flush("a", "b")])

    assert isinstance(refused, AssignmentsNotOpen)
    assert refused.missing == {assignment("a").id}
    assert [(row.device, row.state) for row in refused.rows] == [("a", AssignmentState.FAILED)]


async def test_one_device_gets_one_slot_however_often_it_asks_in_a_group(store: RecordStore) -> None:
    first, second, elsewhere = await commit(store, slot("a"), slot("a"), slot("a", "u-1"))

    assert first == await round_row(store)
    assert second is AlreadyExists
    assert elsewhere == await round_row(store, U1)
    assert (await round_row(store)).round.assigned == 1


async def test_a_device_whose_report_is_counted_in_the_group_gets_no_other_slot_of_it(
    store: RecordStore,
) -> None:
    await add_device(store, replace(device("silent"), silences=2))
    await commit(store, slot("a"), slot("silent"))
    group: list[Operation] = [
        slot("a", "u-1"),
        flush("a", "silent"),
        slot("silent", "u-1"),
        slot("c", "u-1"),
    ]

    refused = (await store.group_writer.commit(group))[2]

    assert isinstance(refused, SlotRefused)
    assert refused.facts == DeviceFacts(device=DeviceId("silent"), last_contributed_at=NOW)
    assert sorted(await states(store, U1)) == ["a", "c"]


async def test_no_more_slots_are_given_out_than_a_round_has(store: RecordStore) -> None:
    outcomes = await commit(store, *(slot(name) for name in "abcdefgh"))

    assert [isinstance(one, RoundRecord) for one in outcomes] == [True] * SLOTS + [False] * 2
    assert outcomes[SLOTS:] == [Superseded] * 2
    assert sorted(await states(store)) == list("abcdef")


async def test_a_slot_that_is_given_back_in_a_group_is_free_for_the_next_of_it(store: RecordStore) -> None:
    await commit(store, *(slot(name) for name in "abcdef"))

    outcomes = await commit(store, slot("g"), GiveBack(assignment("a"), "-v[!", NOW), slot("h"))

    assert outcomes[0] is Superseded
    assert outcomes[2] == await round_row(store)
    assert (await round_row(store)).round.slots_left == 0


async def test_a_group_may_concern_several_rounds(store: RecordStore) -> None:
    await commit(store, slot("a"), slot("a", "u-1"), slot("b", "u-1"), slot("c"))

    assert (await round_row(store)).round.assigned == 2
    assert (await round_row(store, U1)).round.assigned == 2
    assert sorted(await states(store, U1)) == ["a", "b"]


async def test_a_round_that_has_ended_refuses_all_but_what_is_given_back(store: RecordStore) -> None:
    await commit(store, slot("a"), slot("b"))
    await store.rounds.advance(T1, CloseRequested(), NOW, {})

    outcomes = await commit(store, slot("c"), flush("b"), GiveBack(assignment("a"), "-v[!", NOW))

    assert outcomes[:2] == [Superseded, Superseded]
    assert (await round_row(store)).round.failed == 0
    assert await states(store) == {"a": AssignmentState.FAILED, "b": AssignmentState.ASSIGNED}


async def test_two_flushes_of_one_process_follow_one_another_in_a_group(store: RecordStore) -> None:
    await commit(store, *(slot(name) for name in "abcd"))

    first = flush("a", "b", key="first")
    second = replace(flush("c", "d", key="second", replaces="first"), at=NOW + timedelta(seconds=1))
    outcomes = await commit(store, first, flush("c", key="lost"), second)

    assert outcomes[1] is PartialSuperseded
    assert [row.key for row in await store.rounds.partials(T1)] == ["second"]
    assert (await round_row(store)).round.counted == 4


async def test_a_device_that_exists_is_refused_and_the_others_are_added(store: RecordStore) -> None:
    outcomes = await commit(store, AddDevice(device("x")), AddDevice(device("a")), AddDevice(device("x")))

    assert outcomes == [None, AlreadyExists, AlreadyExists]
    assert await store.devices.get(DeviceId("x")) == device("x")


async def test_a_group_of_any_size_is_written(store: RecordStore) -> None:
    names = [f"device-{number:03}" for number in range(150)]

    added = await commit(store, *(AddDevice(device(name)) for name in names))
    assigned = await commit(store, *(slot(name, "u-1") for name in names))

    assert added == [None] * 150
    assert (await round_row(store, U1)).round.assigned == 150
    assert all(isinstance(one, RoundRecord) for one in assigned)
    assert sorted(await states(store, U1)) == names


def engine_of(store: RecordStore) -> Engine:
    """Return the engine that a store commits groups by."""
    assert isinstance(store, SqlStore)
    writes = store._transactions
    return writes._engine if isinstance(writes, ThreadTransactions) else store._engine.sync_engine


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_of_a_group_that_could_not_be_committed_nothing_is_there(store: RecordStore) -> None:
    await commit(store, slot("a"), slot("b"))
    before = await round_row(store)

    def fail(_: object) -> None:
        raise StorageUnavailable("The disk is full.")

    event.listen(engine_of(store), "commit", fail)
    with pytest.raises(StorageUnavailable):
        await commit(
            store, slot("c"), AddDevice(device("x")), GiveBack(assignment("a"), "!", NOW), flush("b")
        )
    event.remove(engine_of(store), "commit", fail)

    assert await round_row(store) == before
    assert await states(store) == {"a": AssignmentState.ASSIGNED, "b": AssignmentState.ASSIGNED}
    assert await store.devices.get(DeviceId("x")) is None
    assert await store.rounds.partials(T1) == []
    after = await commit(store, slot("c"))  # the next group finds the connection in order
    assert after == [await round_row(store)]


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_damaged_row_fails_no_operation_but_its_own(store: RecordStore) -> None:
    await commit(store, slot("a"), slot("b", "u-1"))
    assert isinstance(store, SqlStore)
    async with store._engine.begin() as connection:
        damaged = rounds.update().where(rounds.c.id == T1).values(spec_json=b"{")
        await connection.execute(damaged)

    outcomes = await commit(
        store,
        slot("c", "u-1"),
        slot("d"),
        AddDevice(device("x")),
        GiveBack(assignment("b", "u-1"), "!", NOW),
        flush("a"),
    )

    assert [outcomes[1], outcomes[4]] == [StorageDamaged] * 2
    assert outcomes[2] is None
    assert await states(store, U1) == {"b": AssignmentState.FAILED, "c": AssignmentState.ASSIGNED}
    assert await store.devices.get(DeviceId("x")) == device("x")


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_damaged_row_of_a_round_is_named_to_who_lists_a_tasks_rounds(store: RecordStore) -> None:
    assert isinstance(store, SqlStore)
    task = (await round_row(store)).round.task
    async with store._engine.begin() as connection:
        await connection.execute(rounds.update().where(rounds.c.id == T1).values(spec_json=b"{"))
    damaged: list[UnreadableRow] = []

    assert await store.rounds.list_by_task(task, unreadable=damaged) == []
    assert [row.task for row in damaged] == [task]
    assert T1 in str(damaged[0].error)
    with pytest.raises(StorageDamaged):
        await store.rounds.list_by_task(task)


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_group_whose_caller_is_gone_is_committed_as_a_whole_or_not_at_all(store: RecordStore) -> None:
    task = asyncio.ensure_future(commit(store, *(slot(name) for name in "abcdef")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await commit(store, AddDevice(device("x")))  # waits for the transaction under way, on SQLite

    assigned = (await round_row(store)).round.assigned
    assert assigned in {0, SLOTS}
    assert len(await states(store)) == assigned


@pytest.fixture
async def two_processes(postgres_url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two processes' stores over one database, with a round of each kind and forty devices."""
    one, other = SqlStore(postgres_url), SqlStore(postgres_url)
    await one.open()
    await one.populations.add(POPULATION, VERSION, audit=AUDIT)
    for spec, round_id in ((SPEC, "t-1"), (BUFFER, "u-1")):
        await one.tasks.add(replace(TASK, spec=spec), audit=AUDIT)
        await one.rounds.add(round_of(spec, round_id))
    await commit(one, *(AddDevice(device(f"d{number:02}")) for number in range(40)))
    yield one, other
    await one.close()
    await other.close()


async def test_two_writers_at_once_give_out_each_slot_once(two_processes: Sequence[SqlStore]) -> None:
    names = [f"d{number:02}" for number in range(40)]
    groups = [names[:20], list(reversed(names))[:20]]

    results = await asyncio.gather(
        *(
            commit(store, *(slot(name) for name in mine))
            for store, mine in zip(two_processes, groups, strict=True)
        )
    )

    given = [one for one in itertools.chain(*results) if isinstance(one, RoundRecord)]
    assert sorted(one.round.assigned for one in given) == list(range(1, SLOTS + 1))
    assert len(await states(two_processes[0])) == SLOTS
    assert (await round_row(two_processes[0])).round.assigned == SLOTS


async def test_writers_that_need_the_same_rows_in_another_order_do_not_block_each_other(
    two_processes: Sequence[SqlStore],
) -> None:
    names = [f"d{number:02}" for number in range(40)]
    there = [slot(name, "u-1") for name in names[:20]] + [slot(names[0])]
    back = [slot(names[1])] + [slot(name, "u-1") for name in reversed(names[10:30])]

    for _ in range(5):
        first, second = await asyncio.gather(
            commit(two_processes[0], *there), commit(two_processes[1], *back)
        )
        outcomes = first + second

    assert set(outcomes) == {AlreadyExists}  # since the first time
    assert sorted(await states(two_processes[0], U1)) == names[:30]
    assert (await round_row(two_processes[0], U1)).round.assigned == 30
