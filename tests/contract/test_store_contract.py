"""One contract for every record store: the guarantees that the coordinator relies on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, give_back, take_slot
from tests.contract.stores import STORES, new_store

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
    UserDigest,
)
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.availability import ActiveDevices, ArrivalCount
from keyflock_server.rounds.round import (
    Abandoned,
    Accepted,
    Cancelled,
    Carried,
    CloseRequested,
    Held,
    Merged,
    PartialsDeleted,
    Phase,
    Round,
    RoundEvent,
    Stepped,
    Summarised,
)
from keyflock_server.rounds.task import Eligibility, TaskSpec, TaskStatus
from keyflock_server.rounds.task_changes import with_changes
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.rounds.tuning import AssignmentOutcome, OutcomeKind, RoundHistory
from keyflock_server.storage.device_facts import DeviceFacts, SeenDevice
from keyflock_server.storage.errors import (
    AlreadyExists,
    AssignmentsNotOpen,
    PartialSuperseded,
    SlotRefused,
    Superseded,
)
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.interfaces.tasks import LiveTask, TaskChanges
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    PartialRecord,
    PopulationRecord,
    RoundRecord,
    StagedVersion,
    TaskRecord,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
EN = PopulationName("en")
SPEC = parse_task('[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n')
ASYNC = parse_task('[task]\nname = "u"\npopulation = "en"\n[round]\nmode = "async"\ngoal = 4\n')
PERSONALIZE = parse_task('[task]\nname = "p"\npopulation = "en"\nkind = "personalize"\n[round]\ngoal = 4\n')
POPULATION = PopulationRecord(
    name=EN, created_at=NOW, latest_version=ModelVersion(0), config_json="{}", vocabulary_digest="d"
)
VERSION = VersionRecord(
    population=EN,
    version=ModelVersion(0),
    parent=None,
    round_id=None,
    created_at=NOW,
    download_digest=b"\x00" * 32,
    download_bytes=10,
    download_key="download",
    checkpoint_key="checkpoint",
)
TASK = TaskRecord(spec=SPEC, status=TaskStatus.ACTIVE, created_at=NOW)
ROUND = RoundRecord(
    round=Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=EN,
        sequence=1,
        base_version=ModelVersion(0),
        spec=SPEC,
        opened_at=NOW,
        deadline_at=NOW + timedelta(seconds=600),
    )
)


def device(name: str, user: str | None = None, seen_at: datetime = NOW) -> DeviceRecord:
    return DeviceRecord(
        id=DeviceId(name),
        population=EN,
        user_digest=UserDigest(user) if user else None,
        app_build=1,
        locale="en",
        enrolled_at=NOW,
        last_seen_at=seen_at,
    )


def assignment(of: str, round_id: str = "t-1") -> AssignmentRecord:
    return AssignmentRecord(
        round_id=RoundId(round_id),
        device=DeviceId(of),
        id=AssignmentId(f"assignment-of-{of}"),
        state=AssignmentState.ASSIGNED,
        assigned_at=NOW,
    )


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store with a population, a task, a round and three devices."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    for name in ("a", "b", "c"):
        await add_device(opened, device(name))
    yield opened
    await opened.close()


T1 = RoundId("t-1")


async def assigned(store: RecordStore, *names: str) -> RoundRecord:
    """The round with these devices in its cohort; those that were not enrolled are."""
    record = ROUND
    for name in names:
        if await store.devices.get(DeviceId(name)) is None:
            await add_device(store, device(name))
        record = await take_slot(store, assignment(name))
    return record


async def advanced(store: RecordStore, *events: RoundEvent) -> RoundRecord:
    """The round after these events."""
    record = ROUND
    for event in events:
        record = await store.rounds.advance(T1, event, NOW, {})
    return record


async def forgotten(store: RecordStore, *names: str) -> int:
    """Delete these devices without tombstones; return how many there were."""
    return await store.devices.forget([DeviceId(name) for name in names], [], lambda _row, _counts: [], NOW)


def counted(of: str, weight: float = 1.0, digest: bytes = b"1", round_id: str = "t-1") -> CountedReport:
    return CountedReport(
        id=AssignmentId(f"assignment-of-{of}"),
        round_id=RoundId(round_id),
        device=DeviceId(of),
        report_digest=digest,
        weight=weight,
        session_shape="-v^",
    )


def partial(
    count: int, weight: float, key: str = "partial", replica: str = "r", round_id: str = "t-1"
) -> PartialRecord:
    return PartialRecord(round_id=RoundId(round_id), replica=replica, key=key, count=count, weight=weight)


def replace_task(spec: TaskSpec, name: str) -> TaskSpec:
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, name=TaskName(name)))


async def test_rows_come_back_as_they_went_in(store: RecordStore) -> None:
    assert await store.populations.get(EN) == POPULATION
    assert await store.populations.all() == [POPULATION]
    assert await store.populations.version(EN, ModelVersion(0)) == VERSION
    assert await store.tasks.get(TaskName("t")) == TASK
    assert await store.tasks.all() == [TASK]
    assert await store.rounds.get(RoundId("t-1")) == ROUND
    assert await store.devices.get(DeviceId("a")) == device("a")


async def test_tasks_that_are_over_are_not_read_with_the_others(store: RecordStore) -> None:
    later = NOW + timedelta(seconds=1)
    await store.tasks.add(TaskRecord(spec=ASYNC, status=TaskStatus.FINISHED, created_at=NOW), audit=AUDIT)
    await store.tasks.add(
        TaskRecord(spec=PERSONALIZE, status=TaskStatus.ACTIVE, created_at=later), audit=AUDIT
    )
    await store.tasks.set_status(TaskName("t"), TaskStatus.PAUSED)

    live = await store.tasks.live()
    await store.tasks.set_status(TaskName("t"), TaskStatus.CANCELLED)

    assert list(live.items()) == [
        ("t", LiveTask(TaskStatus.PAUSED, revision=1)),
        ("p", LiveTask(TaskStatus.ACTIVE)),
    ]
    assert await store.tasks.live() == {"p": LiveTask(TaskStatus.ACTIVE)}


async def test_the_end_of_a_pause_and_a_changed_spec_show_in_what_a_pass_reads(store: RecordStore) -> None:
    until = NOW + timedelta(hours=1)
    paused = TaskChanges(status=TaskStatus.PAUSED, pause_reason="night", resumes_at=until)
    larger = with_changes(SPEC, {"goal": 5})

    await store.tasks.change(TaskName("t"), paused, audit=AUDIT)
    before = await store.tasks.live()
    await store.tasks.change(TaskName("t"), TaskChanges(spec=larger), audit=replace(AUDIT, revision="1"))
    after = await store.tasks.live()
    stored = await store.tasks.get(TaskName("t"))

    assert before == {"t": LiveTask(TaskStatus.PAUSED, 1, until)}
    assert after == {"t": LiveTask(TaskStatus.PAUSED, 2, until)}
    assert stored is not None
    assert stored.spec == larger


async def test_what_is_not_there_is_none(store: RecordStore) -> None:
    assert await store.populations.get(PopulationName("xx")) is None
    assert await store.populations.version(EN, ModelVersion(9)) is None
    assert await store.tasks.get(TaskName("xx")) is None
    assert await store.rounds.get(RoundId("xx")) is None
    assert await store.devices.get(DeviceId("xx")) is None


async def test_a_key_is_taken_once(store: RecordStore) -> None:
    with pytest.raises(AlreadyExists):
        await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    with pytest.raises(AlreadyExists):
        await store.tasks.add(TASK, audit=AUDIT)
    with pytest.raises(AlreadyExists):
        await store.rounds.add(ROUND)
    with pytest.raises(AlreadyExists):
        await store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=RoundId("other"))))


async def test_a_task_has_one_round_that_is_not_over(store: RecordStore) -> None:
    following = replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))

    with pytest.raises(AlreadyExists):
        await store.rounds.add(following)
    await store.rounds.advance(T1, Cancelled("over"), NOW, {})
    await store.rounds.add(following)

    assert await store.rounds.unfinished() == [following]


async def test_one_device_has_one_assignment_a_round_and_a_refused_one_changes_nothing(
    store: RecordStore,
) -> None:
    record = await assigned(store, "a")

    with pytest.raises(AlreadyExists):
        await take_slot(store, assignment("a"))

    assert record.round.assigned == 1
    assert await store.rounds.get(T1) == record
    assert await store.assignments.list_by_round(T1) == [assignment("a")]
    assert await store.assignments.get(T1, DeviceId("a")) == assignment("a")
    assert await store.assignments.get(T1, DeviceId("b")) is None


async def test_no_more_devices_are_assigned_than_there_are_slots(store: RecordStore) -> None:
    record = await assigned(store, "a", "b", "c", "d", "e", "f")

    with pytest.raises(Superseded):
        await take_slot(store, assignment("g"))

    assert record.round.slots_left == 0
    assert await store.rounds.get(T1) == record
    assert await store.assignments.get(T1, DeviceId("g")) is None


async def test_a_flush_counts_its_reports_and_moves_the_round_in_one_transaction(store: RecordStore) -> None:
    await assigned(store, "a", "b", "c")
    reports = [counted("a", 2.0, b"1"), counted("b", 3.0, b"2")]

    after = await count_reports(store, partial(2, 5.0), reports, NOW + timedelta(hours=1))

    rows = {row.device: row for row in await store.assignments.list_by_round(T1)}
    a = rows[DeviceId("a")]
    assert (a.state, a.report_digest, a.weight, a.session_shape, a.counted_in) == (
        AssignmentState.COUNTED,
        b"1",
        2.0,
        "-v^",
        "t-1",
    )
    assert rows[DeviceId("c")].state is AssignmentState.ASSIGNED
    assert (after.round.counted, after.round.weight) == (2, 5.0)
    assert await store.rounds.get(T1) == after
    assert await store.rounds.partials(T1) == [partial(2, 5.0)]
    contributed = [await store.devices.get(DeviceId(name)) for name in ("a", "c")]
    assert [one and one.last_contributed_at for one in contributed] == [NOW + timedelta(hours=1), None]


async def test_each_process_has_a_partial_aggregate_of_its_own_and_replaces_only_that(
    store: RecordStore,
) -> None:
    await assigned(store, "a", "b", "c")

    await count_reports(store, partial(1, 1.0, "first", "r1"), [counted("a")], NOW)
    await count_reports(store, partial(1, 1.0, "other", "r2"), [counted("b")], NOW)
    after = await count_reports(store, partial(2, 2.0, "second", "r1"), [counted("c")], NOW, "first")

    assert after.round.counted == 3
    assert await store.rounds.partials(T1) == [
        partial(2, 2.0, "second", "r1"),
        partial(1, 1.0, "other", "r2"),
    ]


@pytest.mark.parametrize("believed", [None, "older"])
async def test_a_partial_aggregate_is_replaced_only_by_who_knows_it(
    store: RecordStore, believed: str | None
) -> None:
    await assigned(store, "a", "b")
    late = await count_reports(store, partial(1, 1.0, "came late"), [counted("a")], NOW)

    with pytest.raises(PartialSuperseded):
        await count_reports(store, partial(1, 1.0, "next"), [counted("b")], NOW, believed)

    assert await store.rounds.get(T1) == late
    assert await store.rounds.partials(T1) == [partial(1, 1.0, "came late")]
    b = await store.assignments.get(T1, DeviceId("b"))
    assert b is not None
    assert b.state is AssignmentState.ASSIGNED


async def test_a_report_that_another_process_has_counted_stops_the_flush_and_is_named(
    store: RecordStore,
) -> None:
    await assigned(store, "a", "b")
    first = await count_reports(store, partial(1, 1.0, replica="r1"), [counted("a")], NOW)

    with pytest.raises(AssignmentsNotOpen) as found:
        await count_reports(store, partial(2, 2.0, replica="r2"), [counted("a"), counted("b")], NOW)

    assert found.value.missing == {"assignment-of-a"}
    assert [(row.device, row.state, row.report_digest) for row in found.value.rows] == [
        ("a", AssignmentState.COUNTED, b"1")
    ]
    assert await store.rounds.get(T1) == first
    assert await store.rounds.partials(T1) == [partial(1, 1.0, replica="r1")]


async def test_a_flush_with_a_report_that_was_given_back_changes_nothing(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    record = await give_back(store, assignment("b"), "-v[!", NOW)

    with pytest.raises(AssignmentsNotOpen) as found:
        await count_reports(store, partial(2, 2.0), [counted("a"), counted("b")], NOW)

    assert found.value.missing == {"assignment-of-b"}
    rows = {row.device: row.state for row in await store.assignments.list_by_round(T1)}
    assert rows == {"a": AssignmentState.ASSIGNED, "b": AssignmentState.FAILED}
    assert await store.rounds.get(T1) == record
    assert await store.rounds.partials(T1) == []


async def test_a_round_that_closes_takes_no_flush_and_closes_once(store: RecordStore) -> None:
    await assigned(store, "a")
    closing = await advanced(store, CloseRequested())

    with pytest.raises(Superseded):
        await count_reports(store, partial(1, 1.0), [counted("a")], NOW)
    with pytest.raises(Superseded):
        await store.rounds.advance(T1, CloseRequested(), NOW, {})

    assert await store.rounds.get(T1) == closing
    assert await store.rounds.partials(T1) == []


async def test_a_buffer_counts_what_was_assigned_in_an_earlier_one(store: RecordStore) -> None:
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    first = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.rounds.add(RoundRecord(round=first))
    await take_slot(store, assignment("a", "u-1"))
    await store.rounds.advance(first.id, Cancelled("over"), NOW, {})
    await store.rounds.add(RoundRecord(round=replace(first, id=RoundId("u-2"), sequence=2)))

    after = await count_reports(
        store, partial(1, 0.5, round_id="u-2"), [counted("a", 0.5, round_id="u-1")], NOW
    )

    row = await store.assignments.get(RoundId("u-1"), DeviceId("a"))
    assert row is not None
    assert (row.state, row.counted_in) == (AssignmentState.COUNTED, "u-2")
    assert (after.round.counted, after.round.assigned, after.round.weight) == (1, 0, 0.5)


async def test_what_is_outstanding_is_known_by_task_device_and_age(store: RecordStore) -> None:
    await assigned(store, "a", "b", "c")
    await give_back(store, assignment("c"), "-v[!", NOW)
    before = NOW - timedelta(seconds=1)

    assert await store.assignments.count_outstanding(TaskName("t"), before, NOW) == 2
    assert await store.assignments.count_outstanding(TaskName("t"), NOW, NOW) == 0
    assert await store.assignments.count_outstanding(TaskName("t"), before, before) == 0
    assert await store.assignments.count_outstanding(TaskName("u"), before, NOW) == 0
    open_ones = [(TaskName("t"), assignment(name)) for name in ("a", "b")]
    found = await store.assignments.outstanding(before)
    assert sorted(found, key=lambda one: one[1].device) == open_ones
    assert len(await store.assignments.outstanding(before, task=TaskName("t"))) == 2
    assert await store.assignments.outstanding(NOW) == []
    assert await store.assignments.outstanding(before, task=TaskName("u")) == []


async def test_a_task_has_one_round_at_a_time(store: RecordStore) -> None:
    following = replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))

    with pytest.raises(AlreadyExists):
        await store.rounds.add(following)
    await store.rounds.advance(T1, Cancelled("asked"), NOW, {})
    await store.rounds.add(following)

    assert [one.round.id for one in await store.rounds.unfinished()] == ["t-2"]


async def test_a_missed_round_carries_its_partials_into_the_next(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    await count_reports(store, partial(2, 5.0), [counted("a", 2.0), counted("b", 3.0)], NOW)
    following = replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))

    begun = await store.rounds.carry(T1, Carried("two came"), following)

    ended = await store.rounds.get(T1)
    assert ended is not None
    assert (ended.round.phase, ended.round.detail, ended.round.counted) == (Phase.CARRIED, "two came", 2)
    assert (begun.round.carried, begun.round.weight, begun.round.counted) == (2, 5.0, 0)
    assert await store.rounds.get(RoundId("t-2")) == begun
    assert await store.rounds.partials(T1) == []
    assert await store.rounds.partials(RoundId("t-2")) == [partial(2, 5.0, replica="t-1/r", round_id="t-2")]
    assert await store.rounds.count(TaskName("t")) == (2, 0)


async def test_partials_may_be_carried_over_any_number_of_rounds(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    await count_reports(store, partial(2, 2.0), [counted("a", 1.0), counted("b", 1.0)], NOW)
    at = T1
    for sequence in range(2, 32):
        following = replace(ROUND.round, id=RoundId(f"t-{sequence}"), sequence=sequence)
        begun = await store.rounds.carry(at, Carried("few came"), replace(ROUND, round=following))
        at = begun.round.id
        if sequence == 2:
            # The same process sums for this one too.
            await take_slot(store, replace(assignment("c"), round_id=at))
            own = replace(counted("c", 1.0), round_id=at)
            await count_reports(store, partial(1, 1.0, round_id=at), [own], NOW)

    assert await store.rounds.partials(at) == [
        partial(2, 2.0, replica="t-1/r", round_id="t-31"),
        partial(1, 1.0, replica="t-2/r", round_id="t-31"),
    ]
    last = await store.rounds.get(at)
    assert last is not None
    assert (last.round.carried, last.round.weight) == (3, 3.0)


async def test_nothing_is_carried_once_the_model_has_moved(store: RecordStore) -> None:
    record = await assigned(store, "a")
    moved = replace(POPULATION, name=PopulationName("de"), latest_version=ModelVersion(3))
    await store.populations.add(moved, replace(VERSION, population=moved.name), audit=AUDIT)
    following = replace(
        ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2, population=moved.name)
    )

    with pytest.raises(Superseded):
        await store.rounds.carry(T1, Carried("one came"), following)

    assert await store.rounds.get(T1) == record
    assert await store.rounds.get(RoundId("t-2")) is None


async def test_a_device_that_was_forgotten_does_not_come_back(store: RecordStore) -> None:
    await add_device(store, device("x1"))
    await forgotten(store, "x1")

    await store.devices.record_seen([seen("x1", 2, "en-US"), seen("a", 2, "en-US")])

    assert await store.devices.get(DeviceId("x1")) is None


async def test_a_refresh_leaves_what_was_contributed_meanwhile(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    before = await store.devices.get(DeviceId("a"))
    assert before is not None
    await count_reports(store, partial(1, 1.0), [counted("a")], NOW)

    after = replace(before, app_build=7, locale="de-DE", user_digest=UserDigest("u"), token_generation=1)
    is_written = await store.devices.renew(before, after, None)

    one = await store.devices.get(DeviceId("a"))
    assert is_written
    assert one == replace(after, last_contributed_at=NOW, changed_at=NOW)


async def test_a_failure_marks_the_assignment_and_the_round_once(store: RecordStore) -> None:
    await assigned(store, "a", "b")  # so the round has room for a second failure, and the row has not

    after = await give_back(store, assignment("a"), "-v[!", NOW)
    with pytest.raises(Superseded):
        await give_back(store, assignment("a"), "-v[", NOW)

    row = await store.assignments.get(T1, DeviceId("a"))
    assert row is not None
    assert (row.state, row.session_shape) == (AssignmentState.FAILED, "-v[!")
    assert await store.assignments.get(T1, DeviceId("b")) == assignment("b")
    assert after.round.failed == 1
    assert await store.rounds.get(T1) == after


async def test_a_report_that_was_counted_is_not_given_back(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    before = await count_reports(store, partial(1, 1.0), [counted("a")], NOW)

    with pytest.raises(Superseded):
        await give_back(store, assignment("a"), "-v[!", NOW)

    row = await store.assignments.get(T1, DeviceId("a"))
    assert row is not None
    assert (row.state, row.report_digest, row.session_shape) == (AssignmentState.COUNTED, b"1", "-v^")
    assert await store.rounds.get(T1) == before


async def test_a_sequence_number_is_taken_for_good(store: RecordStore) -> None:
    over = await advanced(store, Cancelled("over"))

    for taken in (ROUND, replace(ROUND, round=replace(ROUND.round, id=RoundId("other")))):
        with pytest.raises(AlreadyExists):
            await store.rounds.add(taken)

    assert await store.rounds.list_by_task(TaskName("t")) == [over]


async def test_the_rounds_of_a_task_are_not_those_of_another(store: RecordStore) -> None:
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    of_another = RoundRecord(round=replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC))
    await store.rounds.add(of_another)

    assert await store.rounds.list_by_task(TaskName("t")) == [ROUND]
    assert await store.rounds.list_by_task(TaskName("u")) == [of_another]
    assert await store.rounds.phases(TaskName("u")) == {Phase.COLLECTING: 1}
    assert [await store.rounds.count(TaskName(name)) for name in ("t", "u", "v")] == [(1, 0), (1, 0), (0, 0)]


async def test_a_report_was_counted_when_it_came_and_at_its_flush_where_nobody_says_so(
    store: RecordStore,
) -> None:
    await assigned(store, "a", "b")
    came_at, at = NOW + timedelta(seconds=5), NOW + timedelta(seconds=20)

    reports = [replace(counted("a"), received_at=came_at), counted("b")]
    await count_reports(store, partial(2, 2.0), reports, at)

    rows = {row.device: row.counted_at for row in await store.assignments.list_by_round(T1)}
    assert rows == {"a": came_at, "b": at}


@pytest.mark.parametrize(
    ("is_accepted", "loss", "chosen"), [(True, 4.0, 4.0), (True, None, 5.0), (False, 4.0, 5.0)]
)
async def test_a_version_that_an_operator_accepted_is_what_later_ones_are_measured_by(
    store: RecordStore, *, is_accepted: bool, loss: float | None, chosen: float
) -> None:
    de = PopulationName("de")
    await store.populations.add(
        replace(POPULATION, name=de, anchor_loss_chosen=5.0), replace(VERSION, population=de), audit=AUDIT
    )
    mine = replace(ROUND.round, id=RoundId("d-1"), task=TaskName("d"), population=de)
    await store.tasks.add(replace(TASK, spec=replace_task(SPEC, "d")), audit=AUDIT)
    await store.rounds.add(RoundRecord(round=mine))
    decided = (Held("long"), Accepted("no matter")) if is_accepted else ()
    for event in (CloseRequested(), Merged(), Stepped(), *decided):
        await store.rounds.advance(mine.id, event, NOW, {})

    version = replace(
        VERSION, population=de, version=ModelVersion(1), parent=ModelVersion(0), anchor_loss=loss
    )
    await store.rounds.publish(mine.id, version, "state", NOW)

    found, other = await store.populations.get(de), await store.populations.get(EN)
    assert found is not None
    assert (found.latest_version, found.anchor_loss_chosen) == (1, chosen)
    assert other == POPULATION


async def test_a_failure_that_comes_after_its_round_marks_the_assignment_alone(store: RecordStore) -> None:
    await assigned(store, "a")
    closing = await advanced(store, CloseRequested())

    await give_back(store, assignment("a"), "-v[!", NOW)

    (row,) = await store.assignments.list_by_round(T1)
    assert row.state is AssignmentState.FAILED
    assert await store.rounds.get(T1) == closing


async def test_publishing_moves_population_task_and_round_together_and_once(store: RecordStore) -> None:
    await advanced(store, CloseRequested(), Merged(), Stepped())
    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0), round_id=T1)

    published = await store.rounds.publish(T1, version, "state", NOW)
    with pytest.raises(Superseded):
        await store.rounds.publish(T1, version, "state", NOW)

    population, task = await store.populations.get(EN), await store.tasks.get(TaskName("t"))
    assert population is not None
    assert population.latest_version == 1
    assert task is not None
    assert task.optimizer_state_key == "state"
    assert await store.populations.versions() == [VERSION, version]
    assert (published.round.phase, published.round.result_version) == (Phase.PUBLISHED, 1)
    assert await store.rounds.unfinished() == [published]


@pytest.mark.fault("D10")
async def test_a_tasks_norm_scales_are_those_of_whoever_stored_some_first(store: RecordStore) -> None:
    first = await store.tasks.claim_norm_scales(TaskName("t"), b'{"codec":1}')
    second = await store.tasks.claim_norm_scales(TaskName("t"), b'{"codec":2}')

    task = await store.tasks.get(TaskName("t"))
    assert task is not None
    assert first == second == task.norm_scales_json == b'{"codec":1}'


@pytest.mark.fault("D10")
async def test_publishing_moves_the_tasks_norm_scales_and_a_round_keeps_its_own(store: RecordStore) -> None:
    await store.tasks.claim_norm_scales(TaskName("t"), b"before")
    await advanced(store, CloseRequested(), Merged(), Stepped())
    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0), round_id=T1)
    following = replace(
        ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2), norm_scales_json=b"after"
    )

    await store.rounds.publish(T1, version, "state", NOW, b"after")
    await store.rounds.advance(T1, PartialsDeleted(), NOW, {})
    with pytest.raises(Superseded):
        await store.rounds.publish(T1, version, "state", NOW, b"again")
    await store.rounds.add(following)

    task = await store.tasks.get(TaskName("t"))
    assert task is not None
    assert task.norm_scales_json == b"after"
    assert [one.norm_scales_json for one in await store.rounds.list_by_task(TaskName("t"))] == [
        None,
        b"after",
    ]


async def test_a_version_whose_parent_is_not_the_newest_is_not_published(store: RecordStore) -> None:
    stepped = await advanced(store, CloseRequested(), Merged(), Stepped())
    version = replace(VERSION, version=ModelVersion(4), parent=ModelVersion(3), round_id=T1)

    with pytest.raises(Superseded):
        await store.rounds.publish(T1, version, "state", NOW)

    assert await store.rounds.get(T1) == stepped
    assert await store.populations.versions() == [VERSION]


async def test_a_round_keeps_what_its_steps_wrote(store: RecordStore) -> None:
    await advanced(store, CloseRequested(), Merged())

    staged = StagedVersion(stepped_from=ModelVersion(0), state_key="s", download_key="d")
    stepped = await store.rounds.advance(T1, Stepped(), NOW, {"staged": staged})

    found = await store.rounds.get(T1)
    assert found == stepped
    assert (found.staged, found.blob_keys) == (staged, ("d", "s"))


async def test_rounds_that_are_over_are_not_unfinished(store: RecordStore) -> None:
    over = await advanced(store, Cancelled("why"))

    assert over.round.closed_at == NOW
    assert await store.rounds.unfinished() == []
    assert await store.rounds.list_by_task(TaskName("t")) == [over]
    assert await store.rounds.list_by_task(TaskName("t"), last=1) == [over]
    assert await store.rounds.phases(TaskName("t")) == {Phase.CANCELLED: 1}
    assert await store.rounds.count(TaskName("t")) == (1, 0)


async def test_the_newest_rounds_of_a_task_are_the_last_ones(store: RecordStore) -> None:
    over = await advanced(store, Cancelled("why"))
    following = replace(
        over, round=replace(over.round, id=RoundId("t-2"), sequence=2, phase=Phase.COLLECTING)
    )
    await store.rounds.add(following)

    assert await store.rounds.list_by_task(TaskName("t"), last=1) == [following]
    assert [one.round.sequence for one in await store.rounds.list_by_task(TaskName("t"), last=5)] == [1, 2]
    assert await store.rounds.phases(TaskName("t")) == {Phase.CANCELLED: 1, Phase.COLLECTING: 1}
    assert await store.rounds.phases(TaskName("u")) == {}


async def test_a_lease_has_one_holder_until_it_expires(store: RecordStore) -> None:
    later = NOW + timedelta(seconds=10)

    first = await store.leases.acquire("leader", "a", 10.0, NOW)
    refused = await store.leases.acquire("leader", "b", 10.0, NOW)
    renewed = await store.leases.acquire("leader", "a", 10.0, NOW + timedelta(seconds=5))
    still = await store.leases.acquire("leader", "b", 10.0, later)
    taken = await store.leases.acquire("leader", "b", 10.0, later + timedelta(seconds=5))

    assert [lease.holder for lease in (first, refused, renewed, still, taken)] == ["a", "a", "a", "a", "b"]
    assert [lease.epoch for lease in (first, renewed, taken)] == [1, 1, 2]
    assert renewed.expires_at == NOW + timedelta(seconds=15)


async def test_a_lease_from_a_clock_that_was_ahead_is_free(store: RecordStore) -> None:
    await store.leases.acquire("leader", "ahead", 10.0, NOW + timedelta(hours=1))
    await store.leases.acquire("other", "a little ahead", 10.0, NOW + timedelta(seconds=9))

    taken = await store.leases.acquire("leader", "b", 10.0, NOW)
    held = await store.leases.acquire("other", "b", 10.0, NOW)

    assert (taken.holder, taken.epoch, taken.expires_at) == ("b", 2, NOW + timedelta(seconds=10))
    assert held.holder == "a little ahead"


async def test_a_lease_that_is_given_back_is_free_at_once_and_no_other_is_touched(store: RecordStore) -> None:
    await store.leases.acquire("replica-00", "a", 10.0, NOW)
    await store.leases.acquire("replica-01", "b", 10.0, NOW)
    await store.leases.release("replica-01", "a")
    held = await store.leases.held("replica-", NOW)

    await store.leases.release("replica-00", "a")

    assert [lease.holder for lease in held] == ["a", "b"]
    assert [lease.holder for lease in await store.leases.held("replica-", NOW)] == ["b"]
    assert await store.leases.held("replica-", NOW + timedelta(seconds=11)) == []
    assert (await store.leases.acquire("replica-00", "c", 10.0, NOW)).epoch == 2


async def test_devices_are_counted_by_when_they_were_seen(store: RecordStore) -> None:
    await add_device(store, device("old", seen_at=NOW - timedelta(days=2)))
    await store.devices.record_seen(
        [seen("a", 7, "de", NOW + timedelta(hours=2)), seen("b", 8, "fr", NOW), seen("nobody")]
    )
    await store.devices.record_seen([])

    assert await store.devices.count(EN) == 4
    rows = [await store.devices.get(DeviceId(name)) for name in ("a", "b", "c")]
    assert [(row.app_build, row.locale, row.last_seen_at) for row in rows if row is not None] == [
        (7, "de", NOW + timedelta(hours=2)),
        (8, "fr", NOW + timedelta(microseconds=1)),  # it enrolled at this instant, and was seen after that
        (1, "en", NOW),
    ]


@pytest.mark.fault("D4")
async def test_forgetting_a_device_forgets_no_other_of_its_user(store: RecordStore) -> None:
    await add_device(store, device("x1", user="x"))
    await add_device(store, device("x2", user="x"))
    await assigned(store, "x1", "x2")
    await advanced(store, Cancelled("why"))

    deleted = await forgotten(store, "x2")

    assert deleted == 1
    assert await store.devices.get(DeviceId("x1")) is not None
    assert [row.device for row in await store.assignments.list_by_round(RoundId("t-1"))] == [DeviceId("x1")]


async def test_assignments_of_forgotten_devices_stay_while_their_round_counts_and_go_with_it(
    store: RecordStore,
) -> None:
    await assigned(store, "a", "b")
    await forgotten(store, "a")
    while_open = {row.device for row in await store.assignments.list_by_round(RoundId("t-1"))}

    await store.rounds.clear_up(RoundId("t-1"))

    assert while_open == {"a", "b"}
    assert [row.device for row in await store.assignments.list_by_round(RoundId("t-1"))] == [DeviceId("b")]


@pytest.fixture
async def merged(store: RecordStore) -> RoundRecord:
    """A round of kind ``personalize`` whose aggregate is written."""
    await store.tasks.add(replace(TASK, spec=PERSONALIZE), audit=AUDIT)
    opening = replace(ROUND.round, id=RoundId("p-1"), task=TaskName("p"), spec=PERSONALIZE)
    await store.rounds.add(RoundRecord(round=opening))
    await store.rounds.advance(opening.id, CloseRequested(), NOW, {})
    return await store.rounds.advance(opening.id, Merged(), NOW, {})


async def test_a_rounds_priors_and_its_end_are_stored_together(
    store: RecordStore, merged: RoundRecord
) -> None:
    event = Summarised('{"gain":0.5}')

    ended = await store.rounds.publish_personalisation(merged.round.id, event, None, b'{"a":1}', NOW)

    assert await store.populations.get(EN) == replace(POPULATION, personalisation_json=b'{"a":1}')
    assert (ended.round.phase, ended.round.figures_json) == (Phase.PUBLISHED, '{"gain":0.5}')
    assert await store.rounds.get(merged.round.id) == ended


async def test_priors_that_have_changed_meanwhile_are_not_replaced(
    store: RecordStore, merged: RoundRecord
) -> None:
    event = Summarised("{}")

    with pytest.raises(Superseded):
        await store.rounds.publish_personalisation(merged.round.id, event, b"other", b"mine", NOW)

    assert await store.populations.get(EN) == POPULATION
    assert await store.rounds.get(merged.round.id) == merged


async def test_a_round_that_says_nothing_leaves_the_priors_as_they_are(
    store: RecordStore, merged: RoundRecord
) -> None:
    ended = await store.rounds.publish_personalisation(merged.round.id, Summarised("{}"), None, None, NOW)

    assert await store.populations.get(EN) == POPULATION
    assert await store.rounds.get(merged.round.id) == ended


async def test_a_new_version_leaves_the_priors_as_they_are(store: RecordStore, merged: RoundRecord) -> None:
    await store.rounds.publish_personalisation(merged.round.id, Summarised("{}"), None, b'{"a":1}', NOW)
    await advanced(store, CloseRequested(), Merged(), Stepped())

    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0))
    await store.rounds.publish(T1, version, "state", NOW)

    found = await store.populations.get(EN)
    assert found is not None
    assert (found.latest_version, found.personalisation_json) == (1, b'{"a":1}')


async def test_devices_come_by_the_page_with_their_attributes(store: RecordStore) -> None:
    for name in ("z", "x", "y"):
        await add_device(store, replace(device(name), tier=2, tags=("beta", "v2")))

    first = await store.devices.page(EN, DeviceId("w"), 2)
    rest = await store.devices.page(EN, first[-1].id, 2)

    assert [one.id for one in first + rest] == ["x", "y", "z"]
    assert (first[0].tier, first[0].tags) == (2, ("beta", "v2"))
    assert await store.devices.page(PopulationName("de"), None, 2) == []


async def test_a_refresh_changes_attributes_and_a_check_in_leaves_them(store: RecordStore) -> None:
    await add_device(store, device("x"))
    refreshed = replace(device("x"), app_build=7, tier=3, tags=("beta",), token_generation=1)
    await store.devices.renew(device("x"), refreshed, None)

    await store.devices.record_seen([seen("x", 8, "de")])

    found = await store.devices.get(DeviceId("x"))
    assert found is not None
    assert (found.app_build, found.tier, found.tags) == (8, 3, ("beta",))


async def test_check_ins_add_up_over_processes_by_task_and_hour(store: RecordStore) -> None:
    task = TaskName("t")
    await store.arrivals.add([ArrivalCount(task, 10, 5, 2), ArrivalCount(task, 11, 1, 1)])
    await store.arrivals.add([ArrivalCount(task, 11, 3, 0), ArrivalCount(TaskName("u"), 11, 9, 9)])

    assert await store.arrivals.since(task, 10) == [
        ArrivalCount(task, 10, 5, 2),
        ArrivalCount(task, 11, 4, 1),
    ]
    assert await store.arrivals.since(task, 11) == [ArrivalCount(task, 11, 4, 1)]
    await store.arrivals.prune(11)
    assert await store.arrivals.since(task, 0) == [ArrivalCount(task, 11, 4, 1)]


@pytest.mark.fault("D13")
async def test_history_says_nothing_of_a_round_that_waited_for_an_operator(store: RecordStore) -> None:
    await add_device(store, device("x"))
    await take_slot(store, assignment("x"))
    await advanced(store, CloseRequested(), Merged(), Stepped(), Held("too long"), Accepted("no matter"))
    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0))
    await store.rounds.publish(T1, version, "state", NOW + timedelta(days=2))

    assert await store.assignments.history(TaskName("t"), 8, 100) == RoundHistory()


async def test_history_tells_of_ended_rounds_and_participations_of_counted_reports(
    store: RecordStore,
) -> None:
    for name in ("x", "y", "z"):
        await add_device(store, device(name))
        row = replace(assignment(name), assigned_at=NOW + timedelta(seconds=10))
        await take_slot(store, row)
    await count_reports(store, partial(1, 1.0), [counted("x")], NOW + timedelta(seconds=40))
    await give_back(store, assignment("y"), "-*", NOW)
    still_open = await store.assignments.history(TaskName("t"), 8, 100)
    await advanced(store, CloseRequested(), Merged(), Stepped())
    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0))
    await store.rounds.publish(T1, version, "state", NOW + timedelta(seconds=60))

    history = await store.assignments.history(TaskName("t"), 8, 100)

    assert still_open == RoundHistory()
    assert history.durations_s == (60.0,)
    assert history.outcomes == (
        AssignmentOutcome(OutcomeKind.REPORTED, 10.0, 30.0),
        AssignmentOutcome(OutcomeKind.FAILED, 10.0, 50.0),
        AssignmentOutcome(OutcomeKind.CENSORED, 10.0, 50.0),
    )
    assert len((await store.assignments.history(TaskName("t"), 8, 2)).outcomes) == 2
    assert await store.assignments.participations(TaskName("t"), DeviceId("x")) == 1
    assert await store.assignments.participations(TaskName("t"), DeviceId("y")) == 0
    assert await store.assignments.participations(TaskName("u"), DeviceId("x")) == 0


async def test_verdicts_add_up_whoever_counts_them(store: RecordStore) -> None:
    first, other = RoundId("t-1"), RoundId("t-2")
    await store.rounds.advance(first, Cancelled("over"), NOW, {})
    await store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=other, sequence=2)))

    await store.verdicts.add({first: {"too_long": 2, "malformed": 1}})
    await store.verdicts.add({first: {"too_long": 3}, other: {"clipped_rows": 7}})

    assert await store.verdicts.list_by_task(TaskName("t")) == {
        first: {"malformed": 1, "too_long": 5},
        other: {"clipped_rows": 7},
    }
    assert await store.verdicts.list_by_task(TaskName("t"), other) == {other: {"clipped_rows": 7}}
    assert await store.verdicts.list_by_task(TaskName("another")) == {}


async def test_verdicts_that_arrive_together_are_all_counted(store: RecordStore) -> None:
    first = RoundId("t-1")

    await asyncio.gather(*(store.verdicts.add({first: {"too_long": 1}}) for _ in range(20)))

    assert await store.verdicts.list_by_task(TaskName("t")) == {first: {"too_long": 20}}


async def test_a_standing_is_written_only_over_the_one_it_was_made_from(store: RecordStore) -> None:
    a, until = DeviceId("a"), NOW + timedelta(days=3)

    first = await store.devices.set_quarantine(a, None, b"one", None, NOW)
    stale = await store.devices.set_quarantine(a, None, b"two", until, NOW)
    second = await store.devices.set_quarantine(a, b"one", b"three", until, NOW)

    assert (first, stale, second) == (True, False, True)
    row = await store.devices.get(a)
    assert row is not None
    assert (row.standing_json, row.quarantined_until) == (b"three", until)
    assert not await store.devices.set_quarantine(DeviceId("nobody"), None, b"one", None, NOW)


async def test_what_changed_of_devices_is_read_by_when_it_did_the_newest_first(store: RecordStore) -> None:
    later, until = NOW + timedelta(seconds=9), NOW + timedelta(days=3)
    await assigned(store, "a", "b")
    await count_reports(store, partial(1, 1.0), [counted("a")], NOW + timedelta(seconds=5))
    await store.devices.set_quarantine(DeviceId("b"), None, b"one", until, later)
    await store.devices.record_seen([seen("c", at=later)])
    await store.devices.renew(device("c"), replace(device("c"), tier=3, token_generation=1), None)

    b = DeviceFacts(device=DeviceId("b"), quarantined_until=until)
    a = DeviceFacts(device=DeviceId("a"), last_contributed_at=NOW + timedelta(seconds=5))
    assert await store.devices.changed_since(NOW, 10) == [b, a]
    assert await store.devices.changed_since(NOW, 1) == [b]
    assert await store.devices.changed_since(later, 10) == [b]
    assert await store.devices.changed_since(later + timedelta(microseconds=1), 10) == []


async def test_the_row_decides_whether_a_device_takes_a_slot(store: RecordStore) -> None:
    separated = replace(
        ROUND,
        round=replace(
            ROUND.round,
            id=RoundId("t-2"),
            sequence=2,
            spec=msgspec.structs.replace(SPEC, eligibility=Eligibility(min_separation_s=60.0)),
        ),
    )
    await store.rounds.advance(T1, Cancelled("asked"), NOW, {})
    await store.rounds.add(separated)
    for name, ago_s in (("just-now", 59.0), ("rested", 60.0)):
        contributed_at = NOW - timedelta(seconds=ago_s)
        await add_device(store, replace(device(name), last_contributed_at=contributed_at))
    await store.devices.set_quarantine(DeviceId("a"), None, b"one", NOW + timedelta(seconds=1), NOW)
    await store.devices.set_quarantine(DeviceId("b"), None, b"one", NOW, NOW)

    refused = {}
    for name in ("a", "b", "just-now", "rested", "nobody"):
        try:
            await take_slot(store, assignment(name, "t-2"))
        except SlotRefused as error:
            refused[name] = error.facts

    assert refused == {
        "a": DeviceFacts(device=DeviceId("a"), quarantined_until=NOW + timedelta(seconds=1)),
        "just-now": DeviceFacts(
            device=DeviceId("just-now"), last_contributed_at=NOW - timedelta(seconds=59.0)
        ),
        "nobody": None,
    }
    taken = await store.rounds.get(RoundId("t-2"))
    assert taken is not None
    assert taken.round.assigned == 2


async def test_the_quarantined_are_those_whose_time_has_not_come(store: RecordStore) -> None:
    until = NOW + timedelta(days=3)
    await store.devices.set_quarantine(DeviceId("a"), None, b"one", until, NOW)
    await store.devices.set_quarantine(DeviceId("b"), None, b"one", NOW, NOW)

    assert await store.devices.quarantined(NOW) == {DeviceId("a"): until}
    assert await store.devices.quarantined(until) == {}


async def test_what_is_held_against_a_device_goes_with_it(store: RecordStore) -> None:
    await store.devices.set_quarantine(DeviceId("a"), None, b"one", NOW + timedelta(days=3), NOW)

    await forgotten(store, "a")

    assert await store.devices.quarantined(NOW) == {}


async def test_a_version_keeps_its_release_and_the_population_its_average(store: RecordStore) -> None:
    await advanced(store, CloseRequested(), Merged())
    staged = StagedVersion(stepped_from=ModelVersion(0), average_key="average", released_key="released")
    stepped = await store.rounds.advance(T1, Stepped(), NOW, {"staged": staged})
    version = replace(
        VERSION,
        version=ModelVersion(1),
        parent=ModelVersion(0),
        released_digest=b"\x01" * 32,
        released_bytes=9,
        released_key="released",
    )

    await store.rounds.publish(T1, version, "state", NOW)

    stored, population = await store.populations.version(EN, ModelVersion(1)), await store.populations.get(EN)
    assert stepped.blob_keys == ("average", "released")
    assert stored == version
    assert population is not None
    assert population.average_key == "average"


@pytest.mark.fault("D12")
async def test_active_devices_are_those_that_came_back_and_the_proven_ones_apart(store: RecordStore) -> None:
    later = NOW + timedelta(microseconds=1)
    await store.devices.record_seen([seen("a", at=later), seen("b", at=later)])
    await add_device(store, replace(device("old", seen_at=NOW), enrolled_at=NOW - timedelta(days=2)))
    await add_device(store, replace(device("elsewhere", seen_at=later), last_contributed_at=NOW))
    await assigned(store, "a")
    await count_reports(store, partial(1, 1.0), [counted("a")], NOW)

    # "c" has only enrolled.
    assert await store.devices.count_active(EN, NOW - timedelta(days=1)) == ActiveDevices(2, 2)
    assert await store.devices.count_active(EN, later) == ActiveDevices(2, 1)
    assert await store.devices.count_active(PopulationName("de"), NOW) == ActiveDevices(0, 0)


def seen(name: str, app_build: int = 1, locale: str = "en", at: datetime = NOW) -> SeenDevice:
    return SeenDevice(device=DeviceId(name), app_build=app_build, locale=locale, at=at)


async def silences(store: RecordStore, *names: str) -> list[int]:
    rows = [await store.devices.get(DeviceId(name)) for name in names]
    return [row.silences for row in rows if row is not None]


def for_a_minute(of: str, round_id: str = "t-1") -> AssignmentRecord:
    return replace(assignment(of, round_id), expires_at=NOW + timedelta(seconds=60))


@pytest.mark.fault("D13")
async def test_what_ran_out_of_time_is_marked_once_and_its_slot_is_free(store: RecordStore) -> None:
    at = NOW + timedelta(seconds=60)
    for name in ("a", "b"):
        await take_slot(store, for_a_minute(name))
    await take_slot(store, assignment("c"))

    early = await store.rounds.expire(T1, at - timedelta(seconds=1))
    later = at + timedelta(seconds=90)
    ended = await store.rounds.expire(T1, at, now=later)
    again = await store.rounds.expire(T1, at)

    assert (early, again) == (None, None)
    assert ended is not None
    record, ids = ended
    assert ids == ("assignment-of-a", "assignment-of-b")
    assert (record.round.assigned, record.round.expired, record.round.outstanding) == (3, 2, 1)
    assert await store.rounds.get(T1) == record
    states = {row.device: row.state for row in await store.assignments.list_by_round(T1)}
    assert states == {"a": "expired", "b": "expired", "c": "assigned"}
    assert await silences(store, "a", "b", "c") == [1, 1, 0]
    changed = await store.devices.changed_since(later, 10)
    assert sorted((one.device, one.silences, one.last_silent_at) for one in changed) == [
        ("a", 1, at),
        ("b", 1, at),
    ]


@pytest.mark.fault("D13")
async def test_a_report_for_what_ran_out_is_not_counted(store: RecordStore) -> None:
    await take_slot(store, for_a_minute("a"))
    await store.rounds.expire(T1, NOW + timedelta(seconds=60))

    with pytest.raises(AssignmentsNotOpen) as not_open:
        await count_reports(store, partial(1, 1.0), [counted("a")], NOW)
    with pytest.raises(Superseded):
        await give_back(store, assignment("a"), "", NOW)

    assert [row.state for row in not_open.value.rows] == [AssignmentState.EXPIRED]
    with pytest.raises(AlreadyExists):
        await take_slot(store, assignment("a"))


@pytest.mark.fault("D13")
async def test_waiting_reports_are_excluded_and_a_rejected_report_is_no_silence(store: RecordStore) -> None:
    for name in ("a", "b", "c"):
        await take_slot(store, for_a_minute(name))
    waiting, rejected = AssignmentId("assignment-of-a"), AssignmentId("assignment-of-b")

    ended = await store.rounds.expire(
        T1, NOW + timedelta(seconds=60), excluded=[waiting], rejected=[rejected]
    )

    assert ended is not None
    assert ended[1] == ("assignment-of-b", "assignment-of-c")
    assert await silences(store, "a", "b", "c") == [0, 0, 1]


@pytest.mark.fault("D13")
async def test_a_counted_report_gives_the_whole_claim_back(store: RecordStore) -> None:
    await take_slot(store, for_a_minute("a"))
    await store.rounds.expire(T1, NOW + timedelta(seconds=60))
    await advanced(store, Cancelled("why"))
    await store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2)))
    await take_slot(store, assignment("a", "t-2"))
    before = await silences(store, "a")

    report = replace(counted("a"), round_id=RoundId("t-2"))
    await count_reports(store, replace(partial(1, 1.0), round_id=RoundId("t-2")), [report], NOW)

    assert (before, await silences(store, "a")) == ([1], [0])


@pytest.mark.fault("D13")
async def test_when_a_round_has_ended_what_had_time_left_is_held_against_nobody(store: RecordStore) -> None:
    await take_slot(store, for_a_minute("a"))
    await take_slot(store, assignment("b"))  # until the deadline, in 600 s
    late = replace(assignment("c"), assigned_at=NOW + timedelta(seconds=590))
    await take_slot(store, late)
    closed = await advanced(store, CloseRequested())

    at_goal = await store.rounds.expire(T1, NOW + timedelta(seconds=100))
    of_goal = await silences(store, "a", "b", "c")
    await store.rounds.expire(T1, NOW + timedelta(seconds=600))

    assert at_goal == (closed, ("assignment-of-a",))
    assert of_goal == [1, 0, 0]
    # "c" was called ten seconds before the end.
    assert await silences(store, "a", "b", "c") == [1, 1, 0]


@pytest.mark.fault("D13")
async def test_a_buffer_ends_what_earlier_buffers_gave_out(store: RecordStore) -> None:
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    first = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.rounds.add(RoundRecord(round=first))
    expires_at = NOW + timedelta(seconds=600)
    await take_slot(store, replace(assignment("a", "u-1"), expires_at=expires_at))
    for event in (CloseRequested(), Cancelled("why")):
        await store.rounds.advance(first.id, event, NOW, {})
    await store.rounds.add(RoundRecord(round=replace(first, id=RoundId("u-2"), sequence=2)))
    await take_slot(store, replace(assignment("b", "u-2"), expires_at=expires_at))

    ended = await store.rounds.expire(RoundId("u-2"), expires_at)

    assert ended is not None
    assert (ended[0].round.expired, ended[1]) == (1, ("assignment-of-a", "assignment-of-b"))
    assert await silences(store, "a", "b") == [1, 1]


@pytest.mark.fault("D13")
async def test_a_buffer_is_as_it_was_when_only_an_earlier_ones_assignment_ran_out(store: RecordStore) -> None:
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    first = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.rounds.add(RoundRecord(round=first))
    expires_at = NOW + timedelta(seconds=600)
    await take_slot(store, replace(assignment("a", "u-1"), expires_at=expires_at))
    await take_slot(store, replace(assignment("c", "u-1"), assigned_at=NOW + timedelta(seconds=1)))
    await store.rounds.advance(first.id, Cancelled("why"), NOW, {})
    buffer = RoundRecord(round=replace(first, id=RoundId("u-2"), sequence=2))
    await store.rounds.add(buffer)

    ended = await store.rounds.expire(RoundId("u-2"), expires_at)

    assert ended == (buffer, ("assignment-of-a",))
    assert await store.rounds.get(RoundId("u-2")) == buffer
    assert await silences(store, "a", "c") == [1, 0]


@pytest.mark.fault("D13")
async def test_history_knows_of_what_ran_out_until_it_did(store: RecordStore) -> None:
    await take_slot(store, for_a_minute("a"))
    await store.rounds.expire(T1, NOW + timedelta(seconds=60))
    await store.rounds.advance(T1, Abandoned("few", 0), NOW + timedelta(seconds=600), {})

    history = await store.assignments.history(TaskName("t"), 8, 100)

    assert history.outcomes == (AssignmentOutcome(OutcomeKind.CENSORED, 0.0, 60.0),)
