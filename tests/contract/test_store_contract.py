"""One suite, every store: what the coordinator may rely on, whatever is behind the door."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
    UserId,
)
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import (
    Assigned,
    Cancelled,
    CloseRequested,
    Counted,
    Failed,
    Phase,
    Round,
    advance,
)
from keyflock_server.rounds.task import TaskStatus, parse_task
from keyflock_server.storage.door import AlreadyExists, StorageError, Store
from keyflock_server.storage.memory import MemoryStore
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    PopulationRecord,
    RoundRecord,
    TaskRecord,
)
from keyflock_server.storage.sql.store import SqlStore

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
EN = PopulationName("en")
SPEC = parse_task('[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n')
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
        user=UserId(user) if user else None,
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


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A store with a population, a task, a round and three devices."""
    opened: Store
    if request.param == "memory":
        opened = MemoryStore()
    else:
        opened = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}")
    await opened.open()
    await opened.populations.add(POPULATION, VERSION)
    await opened.tasks.add(TASK)
    await opened.rounds.add(ROUND)
    for name in ("a", "b", "c"):
        await opened.devices.add(device(name))
    yield opened
    await opened.close()


async def assigned(store: Store, *names: str) -> RoundRecord:
    """The round with these devices in its cohort."""
    record = ROUND
    for name in names:
        record = replace(record, round=advance(record.round, Assigned(), NOW))
        await store.rounds.assign(record, assignment(name))
    return record


async def test_rows_come_back_as_they_went_in(store: Store) -> None:
    assert await store.populations.get(EN) == POPULATION
    assert await store.populations.all() == [POPULATION]
    assert await store.populations.version(EN, ModelVersion(0)) == VERSION
    assert await store.tasks.get(TaskName("t")) == TASK
    assert await store.tasks.all() == [TASK]
    assert await store.rounds.get(RoundId("t-1")) == ROUND
    assert await store.devices.get(DeviceId("a")) == device("a")


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.populations.get(PopulationName("xx")) is None
    assert await store.populations.version(EN, ModelVersion(9)) is None
    assert await store.tasks.get(TaskName("xx")) is None
    assert await store.rounds.get(RoundId("xx")) is None
    assert await store.devices.get(DeviceId("xx")) is None


async def test_a_key_is_taken_once(store: Store) -> None:
    with pytest.raises(AlreadyExists):
        await store.populations.add(POPULATION, VERSION)
    with pytest.raises(AlreadyExists):
        await store.tasks.add(TASK)
    with pytest.raises(AlreadyExists):
        await store.rounds.add(ROUND)
    with pytest.raises(AlreadyExists):
        await store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=RoundId("other"))))


async def test_one_device_has_one_assignment_a_round_and_a_refused_one_changes_nothing(store: Store) -> None:
    record = await assigned(store, "a")
    twice = replace(record, round=advance(record.round, Assigned(), NOW))

    with pytest.raises(AlreadyExists):
        await store.rounds.assign(twice, assignment("a"))

    assert await store.rounds.get(RoundId("t-1")) == record
    assert await store.rounds.assignments(RoundId("t-1")) == [assignment("a")]
    assert await store.rounds.assignment(RoundId("t-1"), DeviceId("a")) == assignment("a")
    assert await store.rounds.assignment(RoundId("t-1"), DeviceId("b")) is None


async def test_a_flush_counts_its_reports_and_moves_the_round_in_one_transaction(store: Store) -> None:
    record = await assigned(store, "a", "b", "c")
    flushed = replace(record, round=advance(record.round, Counted(2, 5.0), NOW), partial_key="partial")
    reports = [
        CountedReport(device=DeviceId("a"), report_digest=b"1", weight=2.0, session_shape="-v^"),
        CountedReport(device=DeviceId("b"), report_digest=b"2", weight=3.0, session_shape="-^"),
    ]

    await store.rounds.commit_flush(flushed, reports, NOW + timedelta(hours=1))

    rows = {row.device: row for row in await store.rounds.assignments(RoundId("t-1"))}
    a = rows[DeviceId("a")]
    assert (a.state, a.report_digest, a.weight, a.session_shape) == (
        AssignmentState.COUNTED,
        b"1",
        2.0,
        "-v^",
    )
    assert rows[DeviceId("c")].state is AssignmentState.ASSIGNED
    assert await store.rounds.get(RoundId("t-1")) == flushed
    contributed = [await store.devices.get(DeviceId(name)) for name in ("a", "c")]
    assert [one and one.last_contributed_at for one in contributed] == [NOW + timedelta(hours=1), None]


async def test_a_flush_with_a_report_that_has_no_open_assignment_changes_nothing(store: Store) -> None:
    record = await assigned(store, "a", "b")
    record = replace(record, round=advance(record.round, Failed(), NOW))
    await store.rounds.fail(record, AssignmentId("assignment-of-b"), "-v[!")
    flushed = replace(record, round=replace(record.round, counted=2), partial_key="partial")
    reports = [
        CountedReport(device=DeviceId(name), report_digest=b"1", weight=1.0, session_shape="-v^")
        for name in ("a", "b")
    ]

    with pytest.raises(StorageError, match="no open assignment"):
        await store.rounds.commit_flush(flushed, reports, NOW)

    rows = {row.device: row.state for row in await store.rounds.assignments(RoundId("t-1"))}
    assert rows == {"a": AssignmentState.ASSIGNED, "b": AssignmentState.FAILED}
    assert await store.rounds.get(RoundId("t-1")) == record


async def test_a_device_that_was_forgotten_does_not_come_back(store: Store) -> None:
    await store.devices.add(device("x1"))
    await store.devices.forget(DeviceId("x1"))

    is_there = await store.devices.seen(DeviceId("x1"), 2, "en-US", NOW)

    assert not is_there
    assert await store.devices.get(DeviceId("x1")) is None


async def test_a_refresh_leaves_what_was_contributed_meanwhile(store: Store) -> None:
    record = await assigned(store, "a", "b")
    flushed = replace(record, round=advance(record.round, Counted(1, 1.0), NOW), partial_key="partial")
    counted = CountedReport(device=DeviceId("a"), report_digest=b"1", weight=1.0, session_shape="-v^")
    await store.rounds.commit_flush(flushed, [counted], NOW)

    await store.devices.seen(DeviceId("a"), 7, "de-DE", NOW + timedelta(hours=1), UserId("u"))

    one = await store.devices.get(DeviceId("a"))
    assert one is not None
    assert (one.app_build, one.locale, one.user, one.last_contributed_at) == (7, "de-DE", "u", NOW)


async def test_a_failure_marks_the_assignment_and_the_round(store: Store) -> None:
    record = await assigned(store, "a")
    failed = replace(record, round=advance(record.round, Failed(), NOW))

    await store.rounds.fail(failed, AssignmentId("assignment-of-a"), "-v[!")

    (row,) = await store.rounds.assignments(RoundId("t-1"))
    assert (row.state, row.session_shape) == (AssignmentState.FAILED, "-v[!")
    assert await store.rounds.get(RoundId("t-1")) == failed


async def test_publishing_moves_population_task_and_round_together(store: Store) -> None:
    moved = replace(ROUND, round=advance(ROUND.round, CloseRequested(), NOW), state_key="state")
    version = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0), round_id=RoundId("t-1"))

    await store.rounds.publish(moved, version, "state")

    population, task = await store.populations.get(EN), await store.tasks.get(TaskName("t"))
    assert population is not None
    assert population.latest_version == 1
    assert task is not None
    assert task.optimizer_state_key == "state"
    assert await store.populations.versions() == [VERSION, version]
    assert await store.rounds.unfinished() == [moved]


async def test_rounds_that_are_over_are_not_unfinished(store: Store) -> None:
    over = replace(ROUND, round=advance(ROUND.round, Cancelled("why"), NOW))

    await store.rounds.save(over)

    assert await store.rounds.unfinished() == []
    assert await store.rounds.of_task(TaskName("t")) == [over]


async def test_devices_are_counted_by_when_they_were_seen(store: Store) -> None:
    await store.devices.add(device("old", seen_at=NOW - timedelta(days=2)))
    await store.devices.seen(DeviceId("a"), 7, "de", NOW + timedelta(hours=2))

    assert await store.devices.count(EN) == 4
    assert await store.devices.count_active(EN, NOW - timedelta(days=1)) == 3
    seen = await store.devices.get(DeviceId("a"))
    assert seen is not None
    assert (seen.app_build, seen.locale, seen.last_seen_at) == (7, "de", NOW + timedelta(hours=2))


async def test_forgetting_a_device_forgets_its_users_other_devices_and_no_one_else(store: Store) -> None:
    await store.devices.add(device("x1", user="x"))
    await store.devices.add(device("x2", user="x"))
    await store.devices.add(device("y1", user="y"))
    record = await assigned(store, "x1", "y1")
    await store.rounds.save(replace(record, round=advance(record.round, Cancelled("why"), NOW)))

    gone = await store.devices.forget(DeviceId("x2"))

    assert gone == 2
    assert await store.devices.get(DeviceId("x1")) is None
    assert await store.devices.get(DeviceId("y1")) is not None
    assert [row.device for row in await store.rounds.assignments(RoundId("t-1"))] == [DeviceId("y1")]


async def test_assignments_of_forgotten_devices_stay_while_their_round_counts_and_go_with_it(
    store: Store,
) -> None:
    await assigned(store, "a", "b")
    await store.devices.forget(DeviceId("a"))
    while_open = {row.device for row in await store.rounds.assignments(RoundId("t-1"))}

    await store.rounds.purge_forgotten(RoundId("t-1"))

    assert while_open == {"a", "b"}
    assert [row.device for row in await store.rounds.assignments(RoundId("t-1"))] == [DeviceId("b")]


async def test_a_rounds_priors_and_its_end_are_stored_together(store: Store) -> None:
    ended = replace(ROUND, round=replace(ROUND.round, phase=Phase.PUBLISHED, figures_json='{"gain":0.5}'))

    await store.rounds.publish_personalisation(ended, b'{"a":1}')

    assert await store.populations.get(EN) == replace(POPULATION, personalisation_json=b'{"a":1}')
    assert await store.rounds.get(RoundId("t-1")) == ended


async def test_a_round_that_says_nothing_leaves_the_priors_as_they_are(store: Store) -> None:
    ended = replace(ROUND, round=replace(ROUND.round, phase=Phase.PUBLISHED))
    await store.rounds.publish_personalisation(ROUND, b'{"a":1}')

    await store.rounds.publish_personalisation(ended, None)

    assert await store.populations.get(EN) == replace(POPULATION, personalisation_json=b'{"a":1}')
    assert await store.rounds.get(RoundId("t-1")) == ended


async def test_a_new_version_leaves_the_priors_as_they_are(store: Store) -> None:
    await store.rounds.publish_personalisation(ROUND, b'{"a":1}')

    await store.rounds.publish(ROUND, replace(VERSION, version=ModelVersion(1)), "state")

    found = await store.populations.get(EN)
    assert found is not None
    assert (found.latest_version, found.personalisation_json) == (1, b'{"a":1}')


async def test_verdicts_add_up_whoever_counts_them(store: Store) -> None:
    first, other = RoundId("t-1"), RoundId("t-2")
    await store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=other, sequence=2)))

    await store.rounds.add_verdicts({first: {"too_long": 2, "malformed": 1}})
    await store.rounds.add_verdicts({first: {"too_long": 3}, other: {"clipped_rows": 7}})

    assert await store.rounds.verdicts(TaskName("t")) == {
        first: {"malformed": 1, "too_long": 5},
        other: {"clipped_rows": 7},
    }
    assert await store.rounds.verdicts(TaskName("t"), other) == {other: {"clipped_rows": 7}}
    assert await store.rounds.verdicts(TaskName("another")) == {}


async def test_verdicts_that_arrive_together_are_all_counted(store: Store) -> None:
    first = RoundId("t-1")

    await asyncio.gather(*(store.rounds.add_verdicts({first: {"too_long": 1}}) for _ in range(20)))

    assert await store.rounds.verdicts(TaskName("t")) == {first: {"too_long": 20}}


async def test_a_standing_is_written_only_over_the_one_it_was_made_from(store: Store) -> None:
    a, until = DeviceId("a"), NOW + timedelta(days=3)

    first = await store.devices.set_standing(a, None, b"one", None)
    stale = await store.devices.set_standing(a, None, b"two", until)
    second = await store.devices.set_standing(a, b"one", b"three", until)

    assert (first, stale, second) == (True, False, True)
    row = await store.devices.get(a)
    assert row is not None
    assert (row.standing_json, row.quarantined_until) == (b"three", until)
    assert not await store.devices.set_standing(DeviceId("nobody"), None, b"one", None)


async def test_the_quarantined_are_those_whose_time_has_not_come(store: Store) -> None:
    until = NOW + timedelta(days=3)
    await store.devices.set_standing(DeviceId("a"), None, b"one", until)
    await store.devices.set_standing(DeviceId("b"), None, b"one", NOW)

    assert await store.devices.quarantined(NOW) == {DeviceId("a"): until}
    assert await store.devices.quarantined(until) == {}


async def test_devices_are_listed_the_quarantined_first_and_no_more_than_asked_for(store: Store) -> None:
    await store.devices.seen(DeviceId("c"), 1, "en", NOW + timedelta(hours=1))
    await store.devices.set_standing(DeviceId("b"), None, b"one", NOW)

    assert [row.id for row in await store.devices.some(EN, 10)] == ["b", "c", "a"]
    assert [row.id for row in await store.devices.some(EN, 2)] == ["b", "c"]


async def test_what_is_held_against_a_device_goes_with_it(store: Store) -> None:
    await store.devices.set_standing(DeviceId("a"), None, b"one", NOW + timedelta(days=3))

    await store.devices.forget(DeviceId("a"))

    assert await store.devices.quarantined(NOW) == {}


async def test_a_version_keeps_its_release_and_the_population_its_average(store: Store) -> None:
    version = replace(
        VERSION,
        version=ModelVersion(1),
        released_digest=b"\x01" * 32,
        released_bytes=9,
        released_key="released",
    )

    await store.rounds.publish(replace(ROUND, average_key="average"), version, "state")

    stored, population = await store.populations.version(EN, ModelVersion(1)), await store.populations.get(EN)
    assert stored == version
    assert population is not None
    assert population.average_key == "average"
    row = await store.rounds.get(RoundId("t-1"))
    assert row is not None
    assert row.average_key == "average"
